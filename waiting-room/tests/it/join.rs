//! Joining and leaving.

use std::collections::BTreeSet;

use domain::AccountId;
use domain::sale::SaleState;
use futures_util::future::join_all;
use platform::redis::AsyncCommands;
use serde_json::Value;

use crate::hall::{BUYER, EVENT, Hall, OTHER, problem};

#[tokio::test]
async fn joining_twice_gives_one_place() {
    let hall = Hall::open().await;
    let first = hall.join(BUYER).await;
    assert_eq!(first.status(), 201);
    let first: Value = first.json().await.unwrap();
    assert_eq!(
        (&first["place"], &first["state"]),
        (&1.into(), &"waiting".into())
    );
    let again = hall.join(BUYER).await;
    assert_eq!(again.status(), 200);
    let again: Value = again.json().await.unwrap();
    assert_eq!(again["place"], first["place"]);
    assert_eq!(hall.place(OTHER).await.1, 2);
    hall.app.finish().await;
}

#[tokio::test]
async fn two_hundred_who_join_at_once_get_two_hundred_places_without_a_gap() {
    let hall = Hall::open().await;
    // Each of them twice, as impatient people do.
    let accounts = (1..=200).chain(1..=200).map(AccountId);
    let places = join_all(accounts.map(|account| hall.place(account))).await;
    let distinct: BTreeSet<i64> = places.iter().map(|(_, place)| *place).collect();
    assert_eq!(distinct, (1..=200).collect());
    for (first, second) in places[..200].iter().zip(&places[200..]) {
        assert_eq!(first.1, second.1);
    }
    hall.app.finish().await;
}

#[tokio::test]
async fn nobody_joins_a_sale_that_is_unknown_not_open_yet_or_over() {
    let mut hall = Hall::open().await;
    for state in [SaleState::Scheduled, SaleState::Closed, SaleState::SoldOut] {
        hall.publish(|snapshot| snapshot.state = state).await;
        assert_eq!(problem(hall.join(BUYER).await).await, "queue-closed");
    }
    for state in [SaleState::Lobby, SaleState::Paused] {
        hall.publish(|snapshot| snapshot.state = state).await;
        assert!(hall.join(BUYER).await.status().is_success());
    }
    let unknown = hall.client.post(hall.url("/api/events/99/queue"));
    let answer = hall.signed_in(unknown, BUYER).send().await.unwrap();
    assert_eq!(problem(answer).await, "not-found");
    let stranger = hall
        .client
        .post(hall.url("/api/events/1/queue"))
        .send()
        .await
        .unwrap();
    assert_eq!(problem(stranger).await, "signed-out");
    hall.app.finish().await;
}

#[tokio::test]
async fn who_leaves_is_skipped_and_joins_again_at_the_end() {
    let hall = Hall::open().await;
    let (token, _) = hall.place(BUYER).await;
    hall.place(OTHER).await;
    assert_eq!(hall.leave(&token).await.status(), 204);
    assert_eq!(
        hall.leave(&token).await.status(),
        204,
        "a repeat changes nothing"
    );
    let keys = hall.app.ctx.sale_keys(EVENT);
    let all: i64 = hall
        .app
        .ctx
        .redis
        .clone()
        .hget(keys.left_counts(), "all")
        .await
        .unwrap();
    assert_eq!(all, 1);
    let again = hall.join(BUYER).await;
    assert_eq!(again.status(), 201);
    assert_eq!(again.json::<Value>().await.unwrap()["place"], 3);
    hall.app.finish().await;
}

#[tokio::test]
async fn who_has_a_pass_cannot_leave_and_joins_again_when_it_ends() {
    let mut hall = Hall::open().await;
    let (token, place) = hall.place(BUYER).await;
    hall.publish(|snapshot| snapshot.cursor.0 = 1).await;
    let keys = hall.app.ctx.sale_keys(EVENT);
    let now = hall.app.ctx.clock.now().timestamp();
    let pass = |ends: i64, given_back| format!("jti:{now}:{ends}:{given_back}");
    let mut redis = hall.app.ctx.redis.clone();
    let _: () = redis
        .hset(keys.passes(), place, pass(now + 600, 0))
        .await
        .unwrap();
    assert_eq!(hall.standing(&token).await.0, "claimed");
    assert_eq!(problem(hall.leave(&token).await).await, "conflict");
    assert_eq!(hall.place(BUYER).await.1, place, "the pass runs");

    let _: () = redis
        .hset(keys.passes(), place, pass(now + 600, 1))
        .await
        .unwrap();
    assert_eq!(hall.place(BUYER).await.1, 2, "it was given back");
    let _: () = redis.hset(keys.passes(), 2, pass(now, 0)).await.unwrap();
    assert_eq!(hall.place(BUYER).await.1, 3, "it has ended");
    hall.app.finish().await;
}

#[tokio::test]
async fn an_account_joins_ten_times_a_minute_at_most() {
    let hall = Hall::with_limits(1.0).await;
    for _ in 0..10 {
        assert!(hall.join(BUYER).await.status().is_success());
    }
    let refused = hall.join(BUYER).await;
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(problem(refused).await, "rate-limited");
    assert_eq!(hall.join(OTHER).await.status(), 201);
    hall.app.finish().await;
}
