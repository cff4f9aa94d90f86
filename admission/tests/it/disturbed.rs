//! Release loops of whole nodes whose connections are silent, whose public pool is busy, or whose
//! clock is wrong.

use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::sale::{SaleSettings, SaleState};
use platform::service::Context;
use platform::testing::{Proxy, ShiftedClock, eventually};
use secrecy::ExposeSecret;
use sqlx::PgPool;
use sqlx::postgres::PgConnectOptions;

use crate::leaders::{Nodes, call_times, now, open};

/// Bound on the time until the sales of a node that fell silent are called again: its lease, a turn
/// of the other node, and the reading of the lines.
const TAKE_OVER: Duration = Duration::from_secs(5);
const LIMIT: Duration = Duration::from_secs(60);

/// Starts a node whose connections to PostgreSQL go through a proxy.
async fn start_behind_proxy(nodes: &mut Nodes) -> Proxy {
    let url = nodes.app.ctx.config.database_url.clone();
    let (proxy, url) = Proxy::before(url.expose_secret()).await;
    start_at(nodes, url).await;
    proxy
}

/// Starts a node with this database.
async fn start_at(nodes: &mut Nodes, url: String) -> Context {
    let configure =
        |config: &mut platform::config::PlatformConfig| config.database_url = url.into();
    let ctx = nodes.app.another_node_with(configure).await;
    nodes.start_on(ctx.clone()).await;
    ctx
}

/// Waits until a sale was called `calls` times after `since`.
async fn called(db: &PgPool, event: i64, since: DateTime<Utc>, calls: usize) {
    eventually(LIMIT, async || {
        call_times(db, event, since).await.len() >= calls
    })
    .await;
}

/// Pauses a sale, as box-office's change of its settings does.
async fn pause(db: &PgPool, event: i64) {
    sqlx::query(
        "update admission.sales
         set version = version + 1, updated_at = clock_timestamp(),
             settings = settings || jsonb_build_object('paused', true, 'version', version + 1)
         where event_id = $1",
    )
    .bind(event)
    .execute(db)
    .await
    .unwrap();
}

/// Waits until the sale is shown as paused, for at most `limit`; returns its cursor.
async fn paused(db: &PgPool, event: i64, limit: Duration) -> i64 {
    let shown = async || -> (i64, serde_json::Value) {
        sqlx::query_as("select cursor, snapshot->'state' from admission.lines where event_id = $1")
            .bind(event)
            .fetch_one(db)
            .await
            .unwrap()
    };
    let state = serde_json::to_value(SaleState::Paused).unwrap();
    eventually(limit, async || shown().await.1 == state).await;
    shown().await.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_connections_fall_silent_is_replaced_within_seconds() {
    let mut nodes = Nodes::new().await;
    let events = 1..=32;
    for event in events.clone() {
        nodes.add(&open(event), 5_000).await;
    }
    let proxy = start_behind_proxy(&mut nodes).await;
    nodes.start().await;
    nodes.shared_out().await;
    nodes.shop(events.clone().collect());
    let (silent, other) = (nodes.nodes[0].node.clone(), nodes.nodes[1].node.clone());
    for event in events.clone() {
        called(nodes.db(), event, now() - TimeDelta::minutes(1), 1).await;
    }
    nodes.shared_out().await;
    let before = nodes.shards().await;
    let orphans: Vec<i64> = events
        .filter(|event| before[&i16::try_from(event % 32).unwrap()].0.as_ref() == Some(&silent))
        .collect();
    assert_eq!(orphans.len(), 16);
    // New connections are silent, too: nothing is left to the node but to give up.
    proxy.mute();
    let muted_at = now();
    let mut slowest = Duration::ZERO;
    for event in &orphans {
        // A statement that was under way may still be executed.
        eventually(LIMIT, async || {
            let shards = nodes.shards().await;
            shards
                .values()
                .all(|(owner, _)| owner.as_ref() == Some(&other))
        })
        .await;
        called(nodes.db(), *event, muted_at + TimeDelta::seconds(1), 1).await;
        let first = call_times(nodes.db(), *event, muted_at + TimeDelta::seconds(1)).await[0];
        slowest = slowest.max((first - muted_at).to_std().unwrap());
    }
    println!("called again {slowest:?} after the silence began");
    let bound = nodes.machine.extend(TAKE_OVER);
    assert!(slowest < bound, "{slowest:?}, more than {bound:?}");

    // The silent node would still call by its old settings if it led.
    pause(nodes.db(), orphans[0]).await;
    let cursor = paused(nodes.db(), orphans[0], LIMIT).await;
    proxy.cut();
    nodes.shared_out().await;
    assert_eq!(paused(nodes.db(), orphans[0], LIMIT).await, cursor);
    nodes.finish().await;
}

/// A lock that is held between two statements is held for as long as its node is silent, and its
/// successor waits: the loop holds none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loop_is_never_idle_in_a_transaction() {
    let mut nodes = Nodes::new().await;
    for event in 1..=4 {
        nodes.add(&open(event), 5_000).await;
    }
    let url = nodes.app.ctx.config.database_url.clone();
    let (proxy, url) = Proxy::before(url.expose_secret()).await;
    // A transaction of several statements would be idle for most of its time.
    proxy.slow(Duration::from_millis(20));
    let since = now();
    start_at(&mut nodes, url).await;
    nodes.shop((1..=4).collect());
    eventually(LIMIT, async || {
        let idle: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where datname = current_database() and state like 'idle in transaction%'
               and (application_name like 'admission-release%'
                    or application_name = 'admission-lease')",
        )
        .fetch_one(nodes.db())
        .await
        .unwrap();
        assert_eq!(idle, 0, "the loop waits with a transaction open");
        call_times(nodes.db(), 1, since).await.len() >= 10
    })
    .await;
    nodes.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_follows_a_failover_to_the_next_host() {
    let mut nodes = Nodes::new().await;
    nodes.add(&open(1), 100_000).await;
    let next = nodes.app.ctx.config.database_url.clone();
    let (first, url) = Proxy::before(next.expose_secret()).await;
    let ctx = start_at(&mut nodes, url).await;
    nodes.shop(vec![1]);
    called(nodes.db(), 1, now(), 4).await;
    // Its connections end, and new ones are refused; the checks of the process find the next host.
    drop(first);
    let options = PgConnectOptions::from_str(next.expose_secret()).unwrap();
    ctx.db.set_connect_options(options);
    called(nodes.db(), 1, now(), 4).await;
    nodes.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_acts_although_the_leaders_connections_are_silent() {
    let mut nodes = Nodes::new().await;
    nodes.add(&open(1), 100_000).await;
    let proxy = start_behind_proxy(&mut nodes).await;
    nodes.shop(vec![1]);
    called(nodes.db(), 1, now(), 4).await;
    // New connections work, as after a firewall forgot the old ones.
    proxy.mute_open();
    pause(nodes.db(), 1).await;
    // The kernel would wait for a quarter of an hour.
    let cursor = paused(nodes.db(), 1, LIMIT).await;
    // The loop is alive, and calls nobody.
    let joined =
        "update waiting_room.lines set joined = joined + 1, updated_at = clock_timestamp()";
    sqlx::query(joined).execute(nodes.db()).await.unwrap();
    eventually(LIMIT, async || {
        let snapshot: (i64, i64) = sqlx::query_as(
            "select cursor, (snapshot->>'joined')::bigint from admission.lines where event_id = 1",
        )
        .fetch_one(nodes.db())
        .await
        .unwrap();
        snapshot == (cursor, 100_001)
    })
    .await;
    proxy.cut();
    nodes.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_that_holds_the_public_pool_does_not_starve_the_loop() {
    let mut nodes = Nodes::new().await;
    nodes.add(&open(1), 100_000).await;
    nodes.start().await;
    nodes.shop(vec![1]);
    called(nodes.db(), 1, now(), 1).await;
    let before = nodes.shards().await;
    let public = nodes.nodes[0].db.clone();
    let mut held = Vec::new();
    for _ in 0..public.options().get_max_connections() {
        held.push(public.acquire().await.unwrap());
    }
    // Some ten seconds at this pace, several times the lease.
    called(nodes.db(), 1, now(), 40).await;
    nodes.assert_kept(&before).await;
    assert!(public.try_acquire().is_none(), "the crowd stayed");
    drop(held);
    nodes.finish().await;
}

/// The time of PostgreSQL.
async fn database_time(db: &PgPool) -> DateTime<Utc> {
    sqlx::query_scalar("select clock_timestamp()")
        .fetch_one(db)
        .await
        .unwrap()
}

/// A sale whose claim window is shorter than the errors of the clocks here.
fn watched() -> SaleSettings {
    SaleSettings {
        claim_window_seconds: 600,
        ..open(1)
    }
}

/// Asserts that a sale was called at its rate in the last seconds, that nobody missed the turn, and
/// that every move since `begun` has PostgreSQL's time.
async fn assert_called_by_the_database(db: &PgPool, begun: DateTime<Utc>) {
    let since = database_time(db).await;
    called(db, 1, since, 20).await;
    let until = database_time(db).await;
    let (outside, missed, calls): (i64, i64, i64) = sqlx::query_as(
        "select count(*) filter (where at < $1 or at > clock_timestamp() + interval '2 seconds'),
                coalesce(sum(cardinality(missed)), 0)::bigint,
                coalesce(sum((select sum(called[i + 1] - called[i] + 1)
                              from generate_series(1, cardinality(called), 2) as i))
                         filter (where at > $2 and at <= $3), 0)::bigint
         from admission.moves where event_id = 1",
    )
    .bind(begun)
    .bind(since)
    .bind(until)
    .fetch_one(db)
    .await
    .unwrap();
    assert_eq!(outside, 0, "moves at another time than PostgreSQL's");
    assert_eq!(missed, 0, "who was called a moment ago missed the turn");
    let due = (until - since).as_seconds_f64() * f64::from(watched().rate_per_minute) / 60.0;
    #[expect(clippy::cast_precision_loss, reason = "some hundreds")]
    let calls = calls as f64;
    // The first calls make up for a pause; that there are enough was waited for.
    assert!(calls < 1.25 * due + 20.0, "{calls} calls, {due} due");
}

/// A node with the right clock calls, and one whose clock is wrong by `offset` takes over.
async fn a_wrong_clock_takes_over(offset: TimeDelta) {
    let mut nodes = Nodes::new().await;
    nodes.add(&watched(), 100_000).await;
    let db = nodes.db().clone();
    let begun = database_time(&db).await - TimeDelta::seconds(2);
    nodes.start().await;
    called(&db, 1, begun, 4).await;
    let right: Context = nodes.nodes.remove(0);
    right.shutdown.soft().cancel();
    right.shutdown.tasks_left().await;
    right.db.close().await;

    let clock = ShiftedClock::shared(offset);
    let wrong = nodes.app.another_node_at(clock).await;
    nodes.start_on(wrong).await;
    called(&db, 1, now(), 1).await;
    nodes.shop(vec![1]);
    assert_called_by_the_database(&db, begun).await;
    nodes.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_is_ahead_calls_by_the_databases() {
    a_wrong_clock_takes_over(TimeDelta::minutes(30)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_is_behind_calls_by_the_databases() {
    a_wrong_clock_takes_over(TimeDelta::minutes(-30)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_clock_jumps_goes_on_calling() {
    let mut nodes = Nodes::new().await;
    nodes.add(&watched(), 100_000).await;
    let db = nodes.db().clone();
    let begun = database_time(&db).await - TimeDelta::seconds(2);
    let clock = ShiftedClock::default();
    let ctx = nodes.app.another_node_at(Arc::new(clock.clone())).await;
    nodes.start_on(ctx).await;
    called(&db, 1, begun, 4).await;
    nodes.shop(vec![1]);
    for minutes in [30, -30] {
        clock.shift(TimeDelta::minutes(minutes));
        assert_called_by_the_database(&db, begun).await;
    }
    nodes.finish().await;
}
