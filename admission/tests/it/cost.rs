//! What the release loop reads and how often it asks, counted rather than timed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use admission::release::{Leader, Leases, TICK};
use chrono::{DateTime, TimeDelta, Utc};
use domain::EventId;
use domain::sale::SaleSettings;
use platform::testing::{Proxy, RowsRead, TestApp, eventually};
use secrecy::ExposeSecret;
use sqlx::PgPool;

use crate::leaders::{Nodes, add, call_times, now, open, seed_ended};
use crate::line::{sale, start, tick};

const LIMIT: Duration = Duration::from_secs(60);

/// A leader of several sales, in simulated time.
struct Many {
    leases: Leases,
    leader: Leader,
    sales: Vec<Arc<SaleSettings>>,
    now: DateTime<Utc>,
}

impl Many {
    fn of(ctx: &platform::service::Context, sales: Vec<SaleSettings>) -> Self {
        Self {
            leases: Leases::new(ctx, "first"),
            leader: Leader::new(ctx),
            sales: sales.into_iter().map(Arc::new).collect(),
            now: start(),
        }
    }

    async fn ticks(&mut self, count: usize) {
        for _ in 0..count {
            self.now += TimeDelta::from_std(TICK).unwrap();
            let (leader, leases) = (&mut self.leader, &mut self.leases);
            tick(leader, leases, self.now, &self.sales, &HashMap::new()).await;
        }
    }
}

/// Returns the round trips to PostgreSQL of 16 ticks over `count` sales that call at each of them.
async fn round_trips(count: i64) -> u64 {
    let app = TestApp::start().await;
    let url = app.ctx.config.database_url.expose_secret();
    let (proxy, url) = Proxy::before(url).await;
    let ctx = app
        .another_node_with(|config| config.database_url = url.into())
        .await;
    let sales: Vec<SaleSettings> = (1..=count)
        .map(|event| SaleSettings {
            event_id: EventId(event),
            rate_per_minute: 600,
            ..sale()
        })
        .collect();
    add(&app.ctx.db, &sales, 10_000).await;
    let mut many = Many::of(&ctx, sales);
    many.ticks(8).await;
    let called = async || -> i64 {
        sqlx::query_scalar("select sum(cursor)::bigint from admission.lines")
            .fetch_one(&app.ctx.db)
            .await
            .unwrap()
    };
    let (before, trips) = (called().await, proxy.round_trips());
    many.ticks(16).await;
    let trips = proxy.round_trips() - trips;
    let calls = called().await - before;
    assert!(calls >= 16 * count, "{calls} calls in {count} sales");
    ctx.db.close().await;
    drop(many);
    app.finish().await;
    trips
}

#[tokio::test]
async fn a_tick_makes_as_many_round_trips_for_many_sales_as_for_a_few() {
    let (few, many) = (round_trips(4).await, round_trips(200).await);
    println!("16 ticks: {few} round trips for 4 sales, {many} for 200");
    // Connections that rested for a second are pinged, which a busy machine does to every one.
    assert!(
        many <= 2 * few + 16,
        "{many} round trips, {few} for a few sales"
    );
}

#[tokio::test]
async fn a_new_leader_reads_nothing_of_sales_that_ended() {
    let app = TestApp::start().await;
    let db = &app.ctx.db;
    let (ended, moves) = (300, 20);
    seed_ended(db, ended, moves).await;
    let live = SaleSettings {
        event_id: EventId(1),
        ..sale()
    };
    add(db, std::slice::from_ref(&live), 1_000).await;
    let history = RowsRead::of(db, "admission.public_moves", "event_id >= 1000").await;
    let mut sales: Vec<SaleSettings> = (1_000..1_000 + ended)
        .map(|event| SaleSettings {
            closed: true,
            ..open(event)
        })
        .collect();
    sales.push(live);
    let mut many = Many::of(&app.ctx, sales);
    many.ticks(300).await;
    let called: i64 = sqlx::query_scalar("select cursor from admission.lines where event_id = 1")
        .fetch_one(db)
        .await
        .unwrap();
    assert!(called > 0);
    assert_eq!(history.count().await, 0, "of {} rows", ended * moves);
    app.finish().await;
}

/// Waits until the sale was called `calls` times from now on.
async fn go_on(db: &PgPool, event: i64, calls: usize) {
    let since = now();
    eventually(LIMIT, async || {
        call_times(db, event, since).await.len() >= calls
    })
    .await;
}

/// Returns the number of lobbies, sales from 100 on, for which `condition` holds.
async fn lobbies(db: &PgPool, condition: &'static str) -> i64 {
    let count =
        format!("select count(*) from admission.lines where event_id >= 100 and {condition}");
    sqlx::query_scalar(sqlx::AssertSqlSafe(count))
        .fetch_one(db)
        .await
        .unwrap()
}

/// Draws that don't come to an end stand for those of large lobbies, which take seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_draws_that_hang_hold_up_neither_other_sales_nor_the_lease() {
    const LOBBIES: i64 = 200;
    let mut nodes = Nodes::new().await;
    let db = nodes.db().clone();
    let sales: Vec<SaleSettings> = (100..100 + LOBBIES)
        .map(|event| SaleSettings {
            opens_at: now() + TimeDelta::hours(1),
            lobby_seconds: 2 * 3_600,
            ..open(event)
        })
        .collect();
    add(&db, &sales, 8).await;
    sqlx::query(
        "insert into waiting_room.numbers (event_id, account_id, number, joined_at)
         select id, 100 + n, n, now()
         from generate_series(100, 99 + $1) as id, generate_series(1, 8) as n",
    )
    .bind(LOBBIES)
    .execute(&db)
    .await
    .unwrap();
    nodes.add(&open(1), 100_000).await;
    nodes.start().await;
    nodes.shop((100..100 + LOBBIES).chain([1]).collect());
    eventually(LIMIT, async || lobbies(&db, "seq > 0").await == LOBBIES).await;
    go_on(&db, 1, 1).await;
    let shards = nodes.shards().await;

    let mut hanging = db.begin().await.unwrap();
    let hang = "set local idle_in_transaction_session_timeout = 0;
                lock table admission.draws in access exclusive mode";
    sqlx::raw_sql(hang).execute(&mut *hanging).await.unwrap();
    sqlx::query(
        "update admission.sales
         set version = version + 1, updated_at = clock_timestamp(),
             settings = settings || jsonb_build_object('opens_at', clock_timestamp(),
                                                       'version', version + 1)
         where event_id >= 100",
    )
    .execute(&db)
    .await
    .unwrap();
    // More than a lease.
    go_on(&db, 1, 12).await;
    assert_eq!(lobbies(&db, "cursor > 0").await, 0, "no draw was finished");
    nodes.assert_kept(&shards).await;
    hanging.rollback().await.unwrap();
    eventually(LIMIT, async || lobbies(&db, "cursor > 0").await == LOBBIES).await;
    nodes.finish().await;
}
