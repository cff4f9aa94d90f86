//! Limits as callers see them.

use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::{get, post};
use domain::account::Role;
use platform::limits::{Key, Limits, Quota};

use crate::server::{Server, name, problem};

const HOUR: Duration = Duration::from_secs(3_600);

fn routes(limits: &Limits, key: Key) -> Router {
    let limit = limits.layer(
        "join",
        Quota {
            burst: 2,
            per: HOUR,
        },
        key,
    );
    Router::new()
        .route("/join", post(async || "joined").layer(limit))
        .route("/free", get(async || "free"))
}

#[tokio::test]
async fn over_the_limit_is_429_with_the_headers_of_the_draft() {
    let server = Server::start(routes(&Limits::new(1.0), Key::Address)).await;
    let begun = Instant::now();
    for remaining in ["\"join\";r=1;t=1800", "\"join\";r=0;t=3600"] {
        let response = server.post("/join").send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(
            response.headers()["ratelimit-policy"],
            "\"join\";q=2;w=3600"
        );
        assert_eq!(response.headers()["ratelimit"], remaining);
    }
    let response = server.post("/join").send().await.unwrap();
    let wait: u64 = response.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    // A request comes back in half an hour, of which some may be over.
    let over = begun.elapsed().as_secs() + 1;
    assert!((1_800 - over..=1_800).contains(&wait), "{wait}");
    assert!(
        response.headers()["ratelimit"]
            .to_str()
            .unwrap()
            .starts_with("\"join\";r=0;t=")
    );
    let (status, answer) = problem(response).await;
    assert_eq!((status, name(&answer)), (429, "rate-limited"));
    assert_eq!(server.get("/free").send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn accounts_behind_one_address_have_their_own_quota() {
    let server = Server::start(routes(&Limits::new(1.0), Key::Account)).await;
    let join = async |account| {
        let token = server.access_token(account, &[Role::Customer]);
        server
            .post("/join")
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(
        [join(1).await, join(1).await, join(1).await],
        [200, 200, 429]
    );
    assert_eq!(join(2).await, 200);
}

#[tokio::test]
async fn a_made_up_token_does_not_buy_a_quota() {
    let server = Server::start(routes(&Limits::new(1.0), Key::Account)).await;
    let join = async |token: &str| {
        server
            .post("/join")
            .bearer_auth(token)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(
        [join("a").await, join("b").await, join("c").await],
        [200, 200, 429]
    );
}

#[tokio::test]
async fn the_scale_raises_every_limit() {
    let server = Server::start(routes(&Limits::new(10.0), Key::Address)).await;
    let response = server.post("/join").send().await.unwrap();
    assert_eq!(
        response.headers()["ratelimit-policy"],
        "\"join\";q=20;w=3600"
    );
}
