//! The release loop.

use std::collections::HashMap;
use std::sync::Arc;

use admission::pass::Claim;
use admission::release::Leader;
use chrono::TimeDelta;
use domain::queue::SharedKeys;
use domain::sale::{SaleSettings, SaleState, Stock};
use domain::{AccountId, Place};
use platform::redis::AsyncCommands;

use crate::line::{EVENT, Line, sale};

#[tokio::test]
async fn places_are_called_at_the_rate_and_a_new_rate_acts_at_once() {
    let mut line = Line::new(SaleSettings {
        rate_per_minute: 60,
        ..sale()
    })
    .await;
    line.crowd(10_000).await;
    assert_eq!(
        line.tick().await.cursor,
        Place(1),
        "the first does not wait"
    );
    assert_eq!(
        line.ticks(40).await.cursor,
        Place(11),
        "one a second for ten seconds"
    );
    line.set(|sale| sale.rate_per_minute = 6_000);
    let cursor = line.ticks(4).await.cursor;
    assert!(
        (Place(110)..=Place(112)).contains(&cursor),
        "a hundred in a second: {cursor}"
    );
    line.app.finish().await;
}

#[tokio::test]
async fn the_first_of_a_quiet_line_is_called_at_the_next_tick() {
    let mut line = Line::new(SaleSettings {
        rate_per_minute: 1,
        ..sale()
    })
    .await;
    line.tick().await;
    line.join(1).await;
    line.waiting_room.wake(EVENT).await;
    assert_eq!(line.tick().await.cursor, Place(1));
    line.app.finish().await;
}

#[tokio::test]
async fn a_pause_calls_nobody_and_banks_no_credit() {
    let mut line = Line::new(sale()).await;
    line.crowd(10_000).await;
    let before = line.ticks(4).await.cursor;
    line.set(|sale| sale.paused = true);
    assert_eq!(line.ticks(240).await.cursor, before);
    line.set(|sale| sale.paused = false);
    let after = line.tick().await.cursor;
    assert!(after.0 - before.0 <= 4, "{before} to {after}");
    line.app.finish().await;
}

#[tokio::test]
async fn nobody_is_called_while_every_seat_is_held() {
    let mut line = Line::new(sale()).await;
    line.crowd(1_000).await;
    let before = line.ticks(4).await.cursor;
    let stock = |available, held| Stock {
        available,
        held,
        sold: 5,
    };
    line.stock.insert(EVENT, stock(0, 3));
    let waiting = line.ticks(40).await;
    assert_eq!((waiting.cursor, waiting.state), (before, SaleState::Open));
    line.stock.insert(EVENT, stock(1, 2));
    assert!(line.ticks(4).await.cursor > before, "a seat came back");
    line.stock.insert(EVENT, stock(0, 0));
    assert_eq!(line.tick().await.state, SaleState::SoldOut);
    line.app.finish().await;
}

#[tokio::test]
async fn an_idle_hour_banks_no_credit() {
    let mut line = Line::new(sale()).await;
    line.tick().await;
    line.now += TimeDelta::hours(1);
    line.crowd(1_000).await;
    line.waiting_room.wake(EVENT).await;
    assert_eq!(
        line.tick().await.cursor,
        Place(3),
        "one tick of 600 a minute, and one"
    );
    line.app.finish().await;
}

#[tokio::test]
async fn only_the_holder_of_the_lease_moves_the_cursor() {
    let mut line = Line::new(sale()).await;
    line.crowd(1_000).await;
    let before = line.tick().await;
    let ctx = &line.app.ctx;
    let mut second = Leader::new(ctx.redis.clone(), &ctx.config.namespace, "second");
    let sales = [Arc::new(line.sale.clone())];
    assert!(
        second
            .tick(line.now, &sales, &HashMap::new())
            .await
            .unwrap()
            .is_none()
    );
    assert_eq!(line.snapshot().await, before);

    line.leader.resign().await.unwrap();
    assert!(
        second
            .tick(line.now, &sales, &HashMap::new())
            .await
            .unwrap()
            .is_some()
    );
    assert!(
        line.leader
            .tick(line.now, &sales, &HashMap::new())
            .await
            .unwrap()
            .is_none()
    );
    line.app.finish().await;
}

#[tokio::test]
async fn a_leader_that_was_replaced_without_noticing_can_do_nothing() {
    let mut line = Line::new(sale()).await;
    line.crowd(1_000).await;
    line.tick().await;
    let shared = SharedKeys::new(&line.app.ctx.config.namespace);
    let mut redis = line.app.ctx.redis.clone();
    let old_epoch: i64 = redis.get(shared.epoch()).await.unwrap();
    line.leader.resign().await.unwrap();
    let ctx = &line.app.ctx;
    let mut second = Leader::new(ctx.redis.clone(), &ctx.config.namespace, "second");
    let sales = [Arc::new(line.sale.clone())];
    second
        .tick(line.now, &sales, &HashMap::new())
        .await
        .unwrap();

    // The first believes that it has the lease, with the epoch it had.
    let _: () = redis.set(shared.leader(), "first").await.unwrap();
    let _: () = redis.set(shared.epoch(), old_epoch).await.unwrap();
    let before = line.snapshot().await;
    assert_eq!(line.tick().await, before);
    // It really has the lease, though: next time it has an epoch of its own.
    assert!(line.tick().await.cursor > before.cursor);
    line.app.finish().await;
}

#[tokio::test]
async fn those_who_left_are_skipped_and_do_not_use_the_rate() {
    let mut line = Line::new(SaleSettings {
        rate_per_minute: 60,
        ..sale()
    })
    .await;
    line.join(20).await;
    for place in [2, 3, 4, 5, 7, 19, 20] {
        line.waiting_room
            .leave(EVENT, AccountId(place), Place(place))
            .await
            .unwrap();
    }
    let first = line.tick().await;
    assert_eq!((first.cursor, first.waiting, first.left), (Place(5), 12, 7));
    let second = line.ticks(4).await;
    assert_eq!(
        (second.cursor, second.waiting),
        (Place(7), 11),
        "2 to 5 cost no second"
    );
    assert_eq!(line.ticks(4).await.cursor, Place(8));
    let last = line.ticks(4 * 10).await;
    assert_eq!((last.cursor, last.waiting), (Place(20), 0));
    line.app.finish().await;
}

#[tokio::test]
async fn a_whole_line_that_left_is_passed_over() {
    let mut line = Line::new(sale()).await;
    line.set(|sale| sale.paused = true);
    line.join(70).await;
    for place in 1..=70 {
        line.waiting_room
            .leave(EVENT, AccountId(place), Place(place))
            .await
            .unwrap();
    }
    line.join(1).await;
    line.set(|sale| sale.paused = false);
    let snapshot = line.ticks(2).await;
    assert_eq!((snapshot.cursor, snapshot.waiting), (Place(71), 0));
    assert!(matches!(line.claim(71).await, Claim::Granted(_)));
    line.app.finish().await;
}

#[tokio::test]
async fn seq_grows_only_when_something_else_than_the_time_changed() {
    let mut line = Line::new(sale()).await;
    let first = line.tick().await;
    let later = line.ticks(20).await;
    assert_eq!(later.seq, first.seq);
    assert!(
        later.at - first.at >= TimeDelta::seconds(2),
        "it is written again all the same"
    );
    line.set(|sale| "Doors open at eight".clone_into(&mut sale.message));
    let told = line.tick().await;
    assert_eq!(
        (told.seq, told.message.as_str()),
        (first.seq + 1, "Doors open at eight")
    );
    line.app.finish().await;
}
