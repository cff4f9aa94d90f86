//! Random interleavings on real servers: buyers who book, pay, cancel and walk away, messages that
//! are repeated, late and out of order, holds that expire, and workers that die at any step. At
//! rest, money, tickets and seats must agree (I1 to I5, I10).
//!
//! Each interleaving is the story of one small event; a round runs many at once on one database and
//! one set of queues, and several rounds run side by side. `ONSALE_INTERLEAVINGS` sets how many
//! there are in all, and `ONSALE_INTERLEAVINGS_SEED` repeats a run.

mod cashier;
mod story;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use domain::message::{EventChanged, SaleChanged};
use domain::{BookingId, EventId};
use futures_util::future::join_all;
use platform::service::Context;
use platform::testing::{TestApp, eventually, wait_until_consumed};
use platform::topology;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::invariants::assert_invariants;
use crate::shop::{HOLD_SECONDS, LIMIT, Shop, config, event, sale};
use cashier::Cashier;
use story::Story;

/// Interleavings of an ordinary test run.
const FEW: u64 = 100;
/// Interleavings per round.
const ROUND: u64 = 50;
/// Rounds that run side by side: most of a round is waiting.
const ROUNDS_AT_ONCE: usize = 4;
/// Workers that die in a round.
const DEATHS: u32 = 3;
/// Longest time until everything is at rest.
const REST: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

fn setting(key: &str) -> Option<u64> {
    let text = std::env::var(key).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{key} is a number")))
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_in_whatever_order_money_tickets_and_seats_agree() {
    let total = setting("ONSALE_INTERLEAVINGS").unwrap_or(FEW);
    let first = setting("ONSALE_INTERLEAVINGS_SEED").unwrap_or_else(rand::random);
    let (begun, begin) = (AtomicU64::new(0), Instant::now());
    let rounds = async || {
        loop {
            let tried = begun.fetch_add(ROUND, Ordering::Relaxed);
            if tried >= total {
                break;
            }
            let (seed, stories) = (first.wrapping_add(tried), ROUND.min(total - tried));
            println!("{stories} interleavings from ONSALE_INTERLEAVINGS_SEED={seed}");
            let ends = round(seed, stories).await;
            println!("  {seed}: {ends:?}");
            assert!(ends.len() > 2, "so little happened that it shows nothing");
        }
    };
    join_all((0..ROUNDS_AT_ONCE).map(|_| rounds())).await;
    println!("took {:?}", begin.elapsed());
}

/// Runs many stories on one database and one set of queues; returns how many bookings ended in
/// which state.
async fn round(seed: u64, count: u64) -> Vec<(String, i64)> {
    let shop = Shop::empty().await;
    let cashier = Cashier::hire(&shop.app, seed).await;
    let deaths = Deaths::of(&shop.app, seed);
    let stories: Vec<_> = (0..count)
        .map(|nth| Story::of(seed.wrapping_add(nth), i64::try_from(nth).unwrap() + 1))
        .collect();
    open(&shop, &stories).await;

    let told = join_all(stories.iter().map(|story| story.tell(&shop, &cashier)));
    let (told, ()) = tokio::join!(told, deaths.come());
    let accepted: Vec<_> = told.into_iter().flatten().collect();

    // The last holds expire, and the system reaches rest with a worker that stays.
    let survivor = start_worker(&shop.app).await;
    // Outbox rows leased by dead workers are published by others.
    sqlx::query("update platform.outbox set available_at = now()")
        .execute(&shop.app.ctx.db)
        .await
        .unwrap();
    let deadline = Instant::now() + REST;
    let mut looks = tokio::time::interval(LOOK_AGAIN);
    loop {
        looks.tick().await;
        shop.clock.advance(TimeDelta::seconds(HOLD_SECONDS));
        let mut wrong = unrest(&shop, &accepted).await;
        if !cashier.is_at_rest() {
            wrong.push("payments are open".to_owned());
        }
        wrong.extend(cashier.disagreements(&shop.app.ctx.db).await);
        if wrong.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "seed {seed}: {wrong:#?}");
    }
    assert_invariants(&shop.app.ctx.db).await;
    let ends: Vec<(String, i64)> = sqlx::query_as(
        "select state, count(*) from booking.bookings group by state order by state",
    )
    .fetch_all(&shop.app.ctx.db)
    .await
    .unwrap();
    end(survivor).await;
    shop.app.finish().await;
    ends
}

/// Puts the event of each story on sale.
async fn open(shop: &Shop, stories: &[Story]) {
    let first = start_worker(&shop.app).await;
    for story in stories {
        let mut event = event(1, story.sections());
        event.id = story.event_id;
        shop.tell(&EventChanged { event }).await;
        let mut sale = sale(1);
        sale.event_id = story.event_id;
        shop.tell(&SaleChanged { sale }).await;
    }
    let wanted = i64::try_from(stories.len()).unwrap();
    eventually(LIMIT, async || {
        shop.count("select count(*) from booking.events join booking.sales using (event_id)")
            .await
            == wanted
    })
    .await;
    end(first).await;
}

/// Everything not at rest: holds, messages in the outbox, unpaid tickets, and undecided requests
/// (I5).
async fn unrest(shop: &Shop, accepted: &[BookingId]) -> Vec<String> {
    let mut wrong = Vec::new();
    for (what, query) in [
        (
            "held",
            "select count(*) from booking.bookings where state = 'held'",
        ),
        (
            "unpaid",
            "select count(*) from booking.bookings where state = 'confirmed' and captured_at is null",
        ),
        ("unsent", "select count(*) from platform.outbox"),
    ] {
        let count = shop.count(query).await;
        if count > 0 {
            wrong.push(format!("{count} {what}"));
        }
    }
    let ids: Vec<_> = accepted.iter().map(|id| id.0).collect();
    let lost: i64 = sqlx::query_scalar(
        "select count(*) from unnest($1::uuid[]) as asked (id)
         where not exists (select from booking.bookings b where b.id = asked.id)",
    )
    .bind(ids)
    .fetch_one(&shop.app.ctx.db)
    .await
    .unwrap();
    if lost > 0 {
        wrong.push(format!("{lost} requests without an outcome"));
    }
    wrong
}

async fn start_worker(app: &TestApp) -> Context {
    let node = app.another_node().await;
    let routes = booking_worker::start(node.clone(), config()).await;
    wait_until_consumed(&node, &routes.unwrap()).await;
    node
}

/// Shuts a worker down.
async fn end(node: Context) {
    node.shutdown.soft().cancel();
    node.shutdown.tasks_left().await;
    node.broker.close().await;
    node.db.close().await;
}

/// Workers that are killed in the middle of their work.
struct Deaths<'a> {
    app: &'a TestApp,
    rng: std::sync::Mutex<StdRng>,
}

impl<'a> Deaths<'a> {
    fn of(app: &'a TestApp, seed: u64) -> Self {
        let rng = std::sync::Mutex::new(StdRng::seed_from_u64(seed ^ 0xdead));
        Self { app, rng }
    }

    async fn come(&self) {
        for _ in 0..DEATHS {
            let node = start_worker(self.app).await;
            let lives = self.rng.lock().unwrap().random_range(50..600);
            // The time of death is part of the schedule, not a wait for a condition.
            tokio::time::sleep(Duration::from_millis(lives)).await;
            kill(node).await;
        }
    }
}

/// Drops every task where it is, in a transaction or between a commit and its acknowledgement, and
/// cuts the connections.
async fn kill(node: Context) {
    node.shutdown.soft().cancel();
    node.shutdown.hard().cancel();
    node.broker.close().await;
    node.shutdown.tasks_left().await;
    node.db.close().await;
}

#[test]
fn all_partitions_have_stories() {
    let queues: std::collections::HashSet<_> = (1..=i64::try_from(ROUND).unwrap())
        .map(|id| topology::booking_requests_of(EventId(id)))
        .collect();
    assert_eq!(queues.len(), usize::from(topology::BOOKING_PARTITIONS));
}
