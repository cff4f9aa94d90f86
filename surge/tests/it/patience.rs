//! How long a buyer waits: until the set end, and no longer than its patience allows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::routing::{get, post};
use axum::{Json, Router};
use platform::testing::eventually;
use serde_json::json;
use surge::buyer::{Api, ApiError, Buyer, Endpoints, Fate, Funnel, Plan};
use tokio_util::sync::CancellationToken;

/// A queue that never moves; counts the polls, `poll_after_ms` apart.
async fn standing_still(polls: Arc<AtomicU32>, poll_after_ms: u32) -> Endpoints {
    let session = json!({ "session": {
        "account_id": 7, "access_token": "a", "refresh_token": "r", "expires_in": 900,
    }});
    let me = move || {
        polls.fetch_add(1, Ordering::Relaxed);
        let waiting = json!({
            "state": "waiting", "sale": "paused", "poll_after_ms": poll_after_ms,
        });
        async { Json(waiting) }
    };
    let router = Router::new()
        .route("/api/accounts", post(async || Json(session)))
        .route(
            "/api/events/1/queue",
            post(async || Json(json!({ "queue_token": "q" }))),
        )
        .route("/api/events/1/queue/me", get(me));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Endpoints::at(&url.parse().unwrap())
}

#[tokio::test]
async fn a_buyer_in_a_queue_that_stands_still_gives_up_and_says_who_waited() {
    let polls = Arc::new(AtomicU32::new(0));
    let endpoints = standing_still(Arc::clone(&polls), 10).await;
    let give_up = async |patience: Duration| {
        let api = Api::new(crate::http(), endpoints.clone(), [10, 0, 0, 1].into());
        let (email, funnel) = ("ada@buyers.test".to_owned(), Arc::new(Funnel::default()));
        let buyer = Buyer::new(api, funnel, 1, email, 1, Plan::BuyThenCancel);
        let buyer = buyer.with_patience(patience);
        let session = buyer.sign_up().await.unwrap();
        let error = buyer.shop(&session).await.unwrap_err();
        assert!(matches!(error, ApiError::OutOfPatience(..)), "{error:?}");
        let error = error.to_string();
        let expected = format!("{patience:?}");
        assert!(
            error.contains("ada@buyers.test") && error.contains(&expected),
            "{error}"
        );
    };
    // A busy machine may take as long for the join alone.
    for patience in [500, 5_000, 50_000].map(Duration::from_millis) {
        give_up(patience).await;
        if polls.load(Ordering::Relaxed) > 0 {
            return;
        }
    }
    panic!("the buyer never polled");
}

#[tokio::test]
async fn a_buyer_who_waits_closes_the_page_at_the_end_without_another_poll() {
    let polls = Arc::new(AtomicU32::new(0));
    let endpoints = standing_still(Arc::clone(&polls), 3_600_000).await;
    let api = Api::new(crate::http(), endpoints, [10, 0, 0, 1].into());
    let (email, funnel) = ("ada@buyers.test".to_owned(), Arc::new(Funnel::default()));
    let end = CancellationToken::new();
    let buyer = Buyer::new(api, Arc::clone(&funnel), 1, email, 1, Plan::BuyThenCancel);
    let buyer = buyer.with_end(end.clone());
    let session = buyer.sign_up().await.unwrap();
    assert_eq!(funnel.counts().waiting, 0);
    let shopping = tokio::spawn(async move { buyer.shop(&session).await });
    eventually(Duration::from_secs(60), async || {
        funnel.counts().waiting == 1 && polls.load(Ordering::Relaxed) == 1
    })
    .await;
    end.cancel();
    let fate = tokio::time::timeout(Duration::from_secs(60), shopping).await;
    assert_eq!(fate.unwrap().unwrap().unwrap(), Fate::Waiting);
    assert_eq!(funnel.counts().waiting, 0);
    assert_eq!(polls.load(Ordering::Relaxed), 1);
}
