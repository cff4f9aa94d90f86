//! Where a holder stands.

use std::time::Duration;

use domain::sale::SaleState;
use domain::{EventId, Place};
use platform::testing::eventually;
use serde_json::Value;

use crate::hall::{BUYER, Hall, OTHER, problem};

#[tokio::test]
async fn a_place_waits_is_ready_and_is_missed_as_the_cursor_passes() {
    let mut hall = Hall::open().await;
    let token = hall.token(EventId(1), 5, 600);
    assert_eq!(hall.standing(&token).await, ("waiting".to_owned(), 4));
    hall.publish(|snapshot| snapshot.cursor = Place(4)).await;
    assert_eq!(hall.standing(&token).await, ("waiting".to_owned(), 0));
    hall.publish(|snapshot| snapshot.cursor = Place(5)).await;
    assert_eq!(hall.standing(&token).await.0, "ready");
    hall.publish(|snapshot| snapshot.missed_below = Place(5))
        .await;
    assert_eq!(hall.standing(&token).await.0, "missed");
    hall.app.finish().await;
}

#[tokio::test]
async fn those_who_left_are_not_ahead() {
    let mut hall = Hall::open().await;
    let token = hall.token(EventId(1), 10, 600);
    for place in [2, 3, 9] {
        assert_eq!(
            hall.leave(&hall.token(EventId(1), place, 600))
                .await
                .status(),
            204
        );
    }
    hall.publish(|snapshot| snapshot.left = 3).await;
    assert_eq!(hall.standing(&token).await, ("waiting".to_owned(), 6));
    hall.publish(|snapshot| snapshot.cursor = Place(3)).await;
    assert_eq!(hall.standing(&token).await, ("waiting".to_owned(), 5));
    assert_eq!(
        hall.standing(&hall.token(EventId(1), 9, 600)).await.0,
        "left"
    );
    hall.app.finish().await;
}

#[tokio::test]
async fn whoever_waits_is_told_when_the_sale_is_sold_out() {
    let mut hall = Hall::open().await;
    let token = hall.token(EventId(1), 600, 600);
    let sale = async |hall: &Hall| {
        let body: Value = hall.me(&token).await.json().await.unwrap();
        (body["state"].clone(), body["sale"].clone())
    };
    assert_eq!(sale(&hall).await, ("waiting".into(), "open".into()));
    hall.publish(|snapshot| snapshot.state = SaleState::SoldOut)
        .await;
    assert_eq!(sale(&hall).await, ("waiting".into(), "sold_out".into()));
    hall.app.finish().await;
}

#[tokio::test]
async fn the_answer_says_how_long_and_when_to_ask_again() {
    let mut hall = Hall::open().await;
    hall.publish(|snapshot| "Hello".clone_into(&mut snapshot.message))
        .await;
    let token = hall.token(EventId(1), 600, 600);
    let response = hall.me(&token).await;
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["sale"], "open");
    assert_eq!(body["eta_seconds"]["p50"], 60.0);
    assert!(body["eta_seconds"]["p90"].as_f64().unwrap() > 60.0);
    assert!((4_800..=7_200).contains(&body["poll_after_ms"].as_i64().unwrap()));
    assert_eq!(body["message"], "Hello");
    hall.publish(|snapshot| snapshot.pace = None).await;
    let body: Value = hall.me(&token).await.json().await.unwrap();
    assert_eq!(body["eta_seconds"], Value::Null);
    hall.app.finish().await;
}

#[tokio::test]
async fn a_token_that_is_not_of_this_sale_or_not_ours_is_refused() {
    let hall = Hall::open().await;
    let good = hall.token(EventId(1), 5, 600);
    let mut parts: Vec<String> = good.split('.').map(str::to_owned).collect();
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoicXVldWUrand0In0.{}.", parts[1]);
    let letter = if parts[1].ends_with('A') { "B" } else { "A" };
    parts[1].pop();
    parts[1].push_str(letter);
    let attacks = [
        hall.token(EventId(2), 5, 600),
        hall.token(EventId(1), 5, -10),
        parts.join("."),
        unsigned,
        "nonsense".to_owned(),
    ];
    for (index, token) in attacks.iter().enumerate() {
        assert_eq!(
            problem(hall.me(token).await).await,
            "queue-token-invalid",
            "attack {index}"
        );
        let left = hall.leave(token).await;
        assert_eq!(problem(left).await, "queue-token-invalid", "attack {index}");
    }
    let request = hall.client.get(hall.url("/api/events/1/queue/me"));
    let without = hall.signed_in(request, BUYER).send().await.unwrap();
    assert_eq!(problem(without).await, "queue-token-required");
    assert_eq!(hall.standing(&good).await.0, "waiting", "nothing changed");
    hall.app.finish().await;
}

#[tokio::test]
async fn polls_go_on_from_the_last_snapshot_when_redis_forgets() {
    let hall = Hall::open().await;
    let token = hall.token(EventId(1), 5, 600);
    assert_eq!(hall.standing(&token).await, ("waiting".to_owned(), 4));
    let keys = hall.app.ctx.sale_keys(EventId(1));
    let mut redis = hall.app.ctx.redis.clone();
    let _: () = platform::redis::AsyncCommands::del(&mut redis, keys.snapshot())
        .await
        .unwrap();
    // Longer than a refresh takes: the answer stays.
    let mut answers = 0;
    eventually(Duration::from_secs(5), async || {
        assert_eq!(hall.standing(&token).await, ("waiting".to_owned(), 4));
        answers += 1;
        answers > 30
    })
    .await;
    hall.app.finish().await;
}

#[tokio::test]
async fn a_queue_token_alone_is_worth_nothing() {
    let hall = Hall::open().await;
    let token = hall.token(EventId(1), 5, 600);
    let path = hall.url("/api/events/1/queue/me");
    for request in [hall.client.get(&path), hall.client.delete(&path)] {
        let request = request.header("onsale-queue-token", &token);
        assert_eq!(problem(request.send().await.unwrap()).await, "signed-out");
    }
    let thief = hall.me_as(OTHER, &token).await;
    assert_eq!(problem(thief).await, "queue-token-invalid");
    let thief = hall.leave_as(OTHER, &token).await;
    assert_eq!(problem(thief).await, "queue-token-invalid");
    assert_eq!(hall.standing(&token).await.0, "waiting");
    hall.app.finish().await;
}
