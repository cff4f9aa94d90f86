//! `Idempotency-Key`.

use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, App, Client, PASSWORD, event_body};

async fn post_with_key(
    client: &Client<'_>,
    url: (std::net::SocketAddr, &str),
    key: &str,
    body: &Value,
) -> Answer {
    let request = client
        .request(url.0, Method::POST, url.1)
        .header("idempotency-key", key);
    Answer::of(request.json(body).send().await.unwrap()).await
}

#[tokio::test]
async fn a_repeated_request_makes_one_event_and_gets_the_first_answer() {
    let app = App::start().await;
    let admin = app.admin().await;
    let url = (app.internal, "/api/events");
    let body = event_body(json!({"capacity": 5}));
    let first = post_with_key(&admin, url, "k", &body).await;
    assert!(!first.headers.contains_key("idempotent-replayed"));
    let second = post_with_key(&admin, url, "k", &body).await;
    assert_eq!(second.headers["idempotent-replayed"], "true");
    assert_eq!(first.expect(201), second.expect(201));
    assert_eq!(app.count("select count(*) from box_office.events").await, 1);

    let other = event_body(json!({"capacity": 6}));
    post_with_key(&admin, url, "k", &other)
        .await
        .problem("idempotency-key-reused");
    post_with_key(&admin, url, "k2", &other).await.expect(201);
    app.finish().await;
}

#[tokio::test]
async fn ten_copies_at_once_make_one_event() {
    let app = App::start().await;
    let admin = app.admin().await;
    let body = event_body(json!({"capacity": 5}));
    let copies = (0..10).map(|_| post_with_key(&admin, (app.internal, "/api/events"), "k", &body));
    for answer in futures_util::future::join_all(copies).await {
        if answer.status != 201 {
            answer.problem("idempotency-key-in-progress");
        }
    }
    assert_eq!(app.count("select count(*) from box_office.events").await, 1);
    app.finish().await;
}

#[tokio::test]
async fn a_key_belongs_to_its_caller() {
    let app = App::start().await;
    let url = (app.internal, "/api/events");
    for _ in 0..2 {
        let organiser = app.with_role(domain::account::Role::Organiser).await;
        let body = event_body(json!({"capacity": 5}));
        post_with_key(&organiser, url, "k", &body).await.expect(201);
    }
    assert_eq!(app.count("select count(*) from box_office.events").await, 2);
    app.finish().await;
}

#[tokio::test]
async fn a_refused_request_may_be_tried_again_with_its_key() {
    let app = App::start().await;
    let url = (app.public, "/api/accounts");
    let body = json!({"email": "admin@example.org", "password": PASSWORD});
    for _ in 0..2 {
        post_with_key(&app.nobody(), url, "k", &body)
            .await
            .problem("email-taken");
    }
    app.finish().await;
}

#[tokio::test]
async fn a_refresh_whose_answer_was_lost_can_be_repeated() {
    let app = App::start().await;
    let body = json!({"email": "ada@example.org", "password": PASSWORD});
    let up = (app.public, "/api/accounts");
    let post = async |url, body: &Value| post_with_key(&app.nobody(), url, "k", body).await;
    let signed_up = post(up, &body).await.expect(201);
    app.clock.advance(TimeDelta::minutes(5));
    let mut again = post(up, &body).await.expect(201);
    assert_eq!(again["session"]["expires_in"], 600);
    again["session"]["expires_in"] = json!(900);
    assert_eq!(again, signed_up);

    let refresh = (app.public, "/api/sessions/refresh");
    let token = json!({"refresh_token": signed_up["session"]["refresh_token"]});
    let first = post(refresh, &token).await.expect(201);
    assert_eq!(post(refresh, &token).await.expect(201), first);
    let newer = json!({"refresh_token": first["session"]["refresh_token"]});
    let newest = app.nobody().post("/api/sessions/refresh", &newer).await;
    let newest = json!({"refresh_token": newest.expect(201)["session"]["refresh_token"]});
    // Replays would return a rotated refresh token, whose use would end the session.
    post(refresh, &token).await.problem("signed-out");
    post(up, &body).await.problem("signed-out");
    app.nobody()
        .post("/api/sessions/refresh", &newest)
        .await
        .expect(201);
    app.finish().await;
}

#[tokio::test]
async fn a_kept_answer_that_cannot_be_read_makes_nothing_twice() {
    let app = App::start().await;
    let admin = app.admin().await;
    let url = (app.internal, "/api/events");
    let body = event_body(json!({"capacity": 5}));
    post_with_key(&admin, url, "k", &body).await.expect(201);
    sqlx::query("update platform.idempotency_keys set body = '{\"of\": \"another version\"}'")
        .execute(&app.test.ctx.db)
        .await
        .unwrap();
    let again = post_with_key(&admin, url, "k", &body).await;
    again.problem("conflict");
    assert_eq!(app.count("select count(*) from box_office.events").await, 1);
    app.finish().await;
}

#[tokio::test]
async fn a_key_that_is_none_is_refused() {
    let app = App::start().await;
    let admin = app.admin().await;
    let body = event_body(json!({"capacity": 5}));
    for key in ["a b", &"k".repeat(256)] {
        let answer = post_with_key(&admin, (app.internal, "/api/events"), key, &body).await;
        answer.invalid("Idempotency-Key");
    }
    app.finish().await;
}

#[tokio::test]
async fn bodies_that_are_no_json_or_too_large_are_refused() {
    let app = App::start().await;
    let admin = app.admin().await;
    let post = |body: String, media_type: &'static str| {
        let request = admin.request(app.internal, Method::POST, "/api/events");
        request.header("content-type", media_type).body(body).send()
    };
    let cases = [
        ("{".to_owned(), "application/json", "malformed"),
        ("{}".to_owned(), "text/plain", "unsupported-media-type"),
        (
            format!("\"{}\"", "x".repeat(70_000)),
            "application/json",
            "too-large",
        ),
    ];
    for (body, media_type, problem) in cases {
        Answer::of(post(body, media_type).await.unwrap())
            .await
            .problem(problem);
    }
    app.finish().await;
}

#[tokio::test]
async fn a_repeat_after_the_secret_was_rotated_gets_the_first_answer() {
    let app = App::start().await;
    let admin = app.admin().await;
    let body = event_body(json!({"capacity": 5}));
    let first = post_with_key(&admin, (app.internal, "/api/events"), "k", &body).await;
    let rotated = app
        .node_with(|config| config.secrets.insert(0, "n".repeat(32).into()))
        .await;
    let url = (rotated.internal_addr, "/api/events");
    let second = post_with_key(&admin, url, "k", &body).await;
    assert_eq!(second.headers["idempotent-replayed"], "true");
    assert_eq!(first.expect(201), second.expect(201));
    let other = event_body(json!({"capacity": 6}));
    post_with_key(&admin, url, "k", &other)
        .await
        .problem("idempotency-key-reused");
    rotated.stop().await.unwrap();
    app.finish().await;
}
