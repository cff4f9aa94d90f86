//! The release tasks of a node: lease renewal, the loop, and measurements of stock and load.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use domain::EventId;
use domain::release::Load;
use domain::sale::Stock;
use platform::service::Context;
use platform::sync::MutexExt as _;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::load::{self, Undecided};
use super::{HeldShards, Leader, Leases, TICK};
use crate::state::AppState;
use crate::store::stock;

/// Period of lease renewal, and of claiming shards up to the node's fair share.
const TURN_PERIOD: Duration = Duration::from_millis(250);
/// Deadline of a tick.
const TICK_LIMIT: Duration = Duration::from_secs(3);
/// A leader without a successful tick for this long resigns, if other nodes are live.
const MAX_SILENCE: Duration = Duration::from_secs(3);
/// Time for which a leader that resigned claims no shards.
const RESIGN_COOLDOWN: Duration = Duration::from_secs(10);
/// Clock offset above which a warning is logged: tokens allow five seconds of leeway.
const MAX_CLOCK_OFFSET: TimeDelta = TimeDelta::seconds(3);
/// Period at which stock and load are read.
const MEASURE_PERIOD: Duration = Duration::from_secs(1);
/// Acquire timeout of the loop's own pool.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(2);

/// Session timeouts of the loop's connections. A lock is waited for longer than another node may
/// idle with it, so that drawing a lobby outlives the node that began it; a tick has its own
/// deadline.
const LIMITS: &str = "set statement_timeout = '15s'; set lock_timeout = '5s'; \
    set idle_in_transaction_session_timeout = '4s'; \
    set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 3; set tcp_keepalives_count = 3";

/// Returns `ctx` with a small pool of its own to the same database, named for the node.
pub(super) fn on_own_pool(ctx: &Context, connections: u32) -> Context {
    let options = PgConnectOptions::clone(&ctx.db.connect_options());
    let name = format!("admission-release {}", ctx.node);
    let db = PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_LIMIT)
        .test_before_acquire(false)
        .after_connect(|conn, _| {
            Box::pin(async move { sqlx::raw_sql(LIMITS).execute(conn).await.map(drop) })
        })
        .connect_lazy_with(options.application_name(&name));
    let mut ctx = ctx.clone();
    ctx.db = db;
    ctx
}

/// Measurements shared with the loop.
#[derive(Default)]
struct Measured {
    /// Sales whose stock is to be read.
    wanted: HashSet<EventId>,
    stock: HashMap<EventId, Stock>,
    load: Option<Load>,
}

/// Time of the loop's last successful tick.
struct Watchdog(Mutex<Instant>);

impl Watchdog {
    fn beat(&self) {
        *self.0.lock_unpoisoned() = Instant::now();
    }

    fn silence(&self) -> Duration {
        self.0.lock_unpoisoned().elapsed()
    }
}

/// Runs the release loop for this node's shards, until soft shutdown.
pub(crate) async fn run(state: Arc<AppState>) -> anyhow::Result<()> {
    let measured = Mutex::new(Measured::default());
    let watchdog = Watchdog(Mutex::new(Instant::now()));
    let (sender, held) = watch::channel(HeldShards::default());
    let mut leases = Leases::new(&state.ctx, &state.ctx.node);
    let mut leader = Leader::new(&state.ctx);
    {
        let work = Box::pin(async {
            tokio::join!(
                renew_leases(&mut leases, &watchdog, &sender),
                run_ticks(&state, &mut leader, held, &measured, &watchdog),
                measure(&state, &measured),
                report_responses(&state),
            )
        });
        state.ctx.shutdown.soft().run_until_cancelled(work).await;
    }
    if let Err(error) = leases.resign().await {
        tracing::warn!(%error, "failed to release the shards; the lease expires by itself");
    }
    Ok(())
}

/// Renews the lease, and nothing else. A node whose loop makes no progress resigns.
async fn renew_leases(leases: &mut Leases, watchdog: &Watchdog, held: &watch::Sender<HeldShards>) {
    let mut ticks = tokio::time::interval(TURN_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut cooldown_until = Instant::now();
    let mut is_off = false;
    loop {
        ticks.tick().await;
        if Instant::now() < cooldown_until {
            continue;
        }
        let led = held.borrow().shards();
        if led == 0 {
            watchdog.beat();
        } else if watchdog.silence() > MAX_SILENCE && leases.candidates() > 1 {
            tracing::error!(shards = led, "release loop makes no progress, resigning");
            metrics::counter!("admission_leader_resignations_total").increment(1);
            cooldown_until = Instant::now() + RESIGN_COOLDOWN;
            let resigned = tokio::time::timeout(TURN_PERIOD, leases.resign()).await;
            if !matches!(resigned, Ok(Ok(()))) {
                tracing::warn!("failed to release the shards; the lease expires by itself");
            }
            publish_held(held, HeldShards::default());
            continue;
        }
        match leases.turn().await {
            Ok(now) => {
                compare_clocks(&now, &mut is_off);
                publish_held(held, now);
            }
            Err(error) => tracing::warn!(%error, "failed to renew the lease"),
        }
    }
}

/// Warns of a clock offset: the loop uses the database's clock, but this node's tokens and requests
/// use its own.
fn compare_clocks(held: &HeldShards, was_off: &mut bool) {
    let offset = held.clock_offset();
    metrics::gauge!("admission_clock_offset_seconds").set(offset.as_seconds_f64());
    let is_off = offset.abs() > MAX_CLOCK_OFFSET;
    if is_off && !*was_off {
        tracing::warn!(%offset, "clock differs from the database's");
    }
    *was_off = is_off;
}

fn publish_held(held: &watch::Sender<HeldShards>, now: HeldShards) {
    #[expect(clippy::cast_precision_loss, reason = "a gauge of a few")]
    metrics::gauge!("admission_leader").set(now.shards() as f64);
    held.send_if_modified(|held| {
        let is_news = !held.has_same_shards(&now);
        *held = now;
        is_news
    });
}

async fn run_ticks(
    state: &AppState,
    leader: &mut Leader,
    mut changes: watch::Receiver<HeldShards>,
    measured: &Mutex<Measured>,
    watchdog: &Watchdog,
) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut now = DateTime::<Utc>::MIN_UTC;
    loop {
        // Shards just taken over, and lines just read, advance at once.
        let arrived = leader.arrived();
        tokio::select! {
            _ = ticks.tick() => {}
            Ok(()) = changes.changed() => {}
            () = arrived.notified() => {}
        }
        let held = changes.borrow().clone();
        // The database's clock, never backwards: a new leader continues from the old one's times.
        if let Some(time) = held.database_time() {
            now = now.max(time);
        }
        let (stock, load) = {
            let mut measured = measured.lock_unpoisoned();
            (measured.stock.clone(), measured.load.take())
        };
        if let Some(load) = load {
            leader.observe(now, &load);
        }
        let started = Instant::now();
        let sales = state.sales.all();
        let tick = Box::pin(leader.tick(&held, now, &sales, &stock));
        let outcome = tokio::time::timeout(TICK_LIMIT, tick).await;
        match outcome {
            Ok(Ok(seen)) => {
                watchdog.beat();
                let mut measured = measured.lock_unpoisoned();
                measured.wanted.extend(seen);
            }
            Ok(Err(error)) => {
                metrics::counter!("admission_tick_failures_total").increment(1);
                tracing::warn!(%error, "tick failed");
                // After a failover its pool still names the host that is gone.
                if platform::pg::is_away(&error) {
                    leader.reconnect();
                }
            }
            Err(_) => {
                metrics::counter!("admission_tick_failures_total").increment(1);
                tracing::warn!(limit = ?TICK_LIMIT, "tick exceeded its deadline");
                leader.reconnect();
            }
        }
        if !held.is_empty() {
            metrics::histogram!("admission_tick_seconds").record(started.elapsed().as_secs_f64());
        }
    }
}

/// Reads the stock of the sales that were due, and the load, once a second.
async fn measure(state: &AppState, measured: &Mutex<Measured>) {
    let mut db = on_own_pool(&state.ctx, 1).db;
    let mut undecided = Undecided::default();
    let mut ticks = tokio::time::interval(MEASURE_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let wanted: Vec<EventId> = {
            let mut measured = measured.lock_unpoisoned();
            measured.wanted.drain().collect()
        };
        if wanted.is_empty() {
            continue;
        }
        match stock::of(&db, &wanted).await {
            Ok(read) => {
                let mut measured = measured.lock_unpoisoned();
                measured.stock.extend(read);
            }
            Err(error) => tracing::warn!(%error, "failed to read stock"),
        }
        match load::measure(&db, &mut undecided).await {
            Ok(load) => {
                let mut measured = measured.lock_unpoisoned();
                measured.load = Some(load);
            }
            Err(error) => {
                tracing::warn!(%error, "failed to measure load");
                // After a failover it still names the host that is gone.
                db = on_own_pool(&state.ctx, 1).db;
            }
        }
    }
}

/// Reports this node's response statistics to the leaders.
async fn report_responses(state: &AppState) {
    let mut ticks = tokio::time::interval(load::PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = state.responses.report(&state.ctx.db, &state.ctx.node).await {
            tracing::warn!(%error, "failed to store booking response stats");
        }
    }
}
