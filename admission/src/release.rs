//! The release loop: four times a second the leader moves each sale's cursor at the operator's
//! rate and publishes the sale's snapshot.

mod lease;
mod pace;
mod snapshot;
mod tick;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::EventId;
use domain::queue::{SharedKeys, Snapshot};
use domain::sale::{SaleSettings, SaleState, Stock};
use futures_util::StreamExt;
use platform::redis::{Redis, cmd};
use redis::{RedisError, RedisResult};
use tokio::time::MissedTickBehavior;

use crate::{Desk, store};
use lease::Lease;
use pace::Pace;
use tick::{Cursor, Ticked};

/// How often the cursor moves.
pub const TICK: Duration = Duration::from_millis(250);
/// A sale with nobody in its line is looked at in one of so many ticks.
const IDLE_TICKS: u64 = 8;
/// An ended one in one of so many.
const CLOSED_TICKS: u64 = 120;
/// The stock of a sale with nobody in its line is read in one of so many ticks.
const IDLE_STOCK_TICKS: u64 = 64;
/// A snapshot that does not change is written again after this long.
const REWRITE_AFTER: TimeDelta = TimeDelta::seconds(2);
/// How often the stock is read.
const STOCK_PERIOD: Duration = Duration::from_secs(1);
/// How many sales are moved at once.
const AT_ONCE: usize = 64;
/// How many joined sales are taken note of in one tick.
const MAX_WOKEN: usize = 1_000;

/// Why a tick failed.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// Redis did not do what it was asked.
    #[error("Redis did not do what the release loop asked")]
    Redis(#[from] RedisError),
    /// What Redis holds is not a snapshot.
    #[error("a snapshot can't be read or written as JSON")]
    Json(#[from] serde_json::Error),
}

/// A node that releases places while it has the lease.
///
/// The lease decides who is leader; the epoch that comes with it decides who is obeyed. Each sale
/// remembers the highest epoch that has acted on it, so a leader that was replaced without
/// noticing can do nothing to a sale that its successor has moved.
#[derive(Debug)]
pub struct Leader {
    redis: Redis,
    keys: SharedKeys,
    cursor: Cursor,
    lease: Lease,
    lines: HashMap<EventId, Line>,
    ticks: u64,
}

/// What the leader remembers of one sale.
#[derive(Debug, Default)]
struct Line {
    pace: Pace,
    /// The version of the settings it acted on last.
    version: Option<i64>,
    written: Option<Snapshot>,
}

/// One sale after its tick.
struct Advanced {
    event_id: EventId,
    line: Line,
    /// The fence when a later leader has acted.
    outcome: Result<Option<i64>, ReleaseError>,
}

impl Leader {
    /// A candidate named `node`, which must differ from all others.
    #[must_use]
    pub fn new(redis: Redis, namespace: &str, node: &str) -> Self {
        let keys = SharedKeys::new(namespace);
        Self {
            cursor: Cursor::new(redis.clone(), namespace),
            lease: Lease::new(redis.clone(), &keys, node),
            redis,
            keys,
            lines: HashMap::new(),
            ticks: 0,
        }
    }

    /// Moves the sales on to `now` if this node is, or becomes, the leader; `None` when it is not.
    /// Returns the sales it looked at, whose stock should be known next time.
    ///
    /// # Errors
    /// When Redis fails. What was called stays called; the next tick goes on from there.
    pub async fn tick(
        &mut self,
        now: DateTime<Utc>,
        sales: &[Arc<SaleSettings>],
        stock: &HashMap<EventId, Stock>,
    ) -> Result<Option<Vec<EventId>>, ReleaseError> {
        let Some(epoch) = self.lease.hold(now).await? else {
            self.lines.clear();
            return Ok(None);
        };
        let woken = self.woken().await?;
        self.ticks = self.ticks.wrapping_add(1);
        let mut due = Vec::new();
        for sale in sales {
            if self.is_due(sale, stock.get(&sale.event_id), &woken) {
                let line = self.lines.remove(&sale.event_id).unwrap_or_default();
                due.push((Arc::clone(sale), line));
            }
        }
        let cursor = &self.cursor;
        let moved: Vec<_> = futures_util::stream::iter(due)
            .map(|(sale, mut line)| async move {
                let stock = stock.get(&sale.event_id).copied();
                let outcome = line.advance(cursor, epoch, now, &sale, stock).await;
                Advanced {
                    event_id: sale.event_id,
                    line,
                    outcome,
                }
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        self.settle(moved)
    }

    /// Gives the lease up, so that another node need not wait for its end.
    ///
    /// # Errors
    /// When Redis fails; the lease then ends by itself within seconds.
    pub async fn resign(&mut self) -> RedisResult<()> {
        self.lease.give_up().await
    }

    fn settle(&mut self, moved: Vec<Advanced>) -> Result<Option<Vec<EventId>>, ReleaseError> {
        let mut seen = Vec::new();
        let mut failure = None;
        for Advanced {
            event_id,
            line,
            outcome,
        } in moved
        {
            match outcome {
                Ok(None) => {
                    if line.wants_stock() || self.is_turn(event_id, IDLE_STOCK_TICKS) {
                        seen.push(event_id);
                    }
                    self.lines.insert(event_id, line);
                }
                Ok(Some(fence)) => self.lease.must_exceed(fence),
                Err(error) => {
                    self.lines.insert(event_id, line);
                    failure = Some(error);
                }
            }
        }
        self.measure();
        failure.map_or(Ok(Some(seen)), Err)
    }

    /// Sales whose idle line somebody has joined since the last tick.
    async fn woken(&self) -> RedisResult<HashSet<i64>> {
        let mut pop = cmd("SPOP");
        pop.arg(self.keys.woken()).arg(MAX_WOKEN);
        pop.query_async(&mut self.redis.clone()).await
    }

    fn is_due(&self, sale: &SaleSettings, stock: Option<&Stock>, woken: &HashSet<i64>) -> bool {
        let Some(line) = self.lines.get(&sale.event_id) else {
            return true;
        };
        let is_closed = line
            .written
            .as_ref()
            .is_some_and(|last| last.state == SaleState::Closed);
        let period = if is_closed { CLOSED_TICKS } else { IDLE_TICKS };
        line.version != Some(sale.version)
            || line.is_busy()
            || woken.contains(&sale.event_id.0)
            || line.is_stock_new(stock)
            || self.is_turn(sale.event_id, period)
    }

    /// Spreads the sales over `period` ticks.
    fn is_turn(&self, event_id: EventId, period: u64) -> bool {
        self.ticks % period == event_id.0.unsigned_abs() % period
    }

    fn measure(&self) {
        let written = || self.lines.values().filter_map(|line| line.written.as_ref());
        let gauge = |name, sum: i64| {
            #[expect(clippy::cast_precision_loss, reason = "a gauge")]
            metrics::gauge!(name).set(sum as f64);
        };
        gauge(
            "admission_waiting_places",
            written().map(|last| last.waiting).sum(),
        );
        gauge(
            "admission_shoppers",
            written().map(|last| last.shopping).sum(),
        );
    }
}

impl Line {
    /// Whether its next tick may call, miss or end something. In an ended sale nobody is called.
    fn is_busy(&self) -> bool {
        let Some(last) = &self.written else {
            return true;
        };
        let is_waited_for = last.state != SaleState::Closed && last.waiting > 0;
        is_waited_for || last.shopping > 0 || last.missed_below < last.cursor
    }

    fn wants_stock(&self) -> bool {
        self.is_busy()
            || self
                .written
                .as_ref()
                .is_some_and(|last| last.available.is_none())
    }

    fn is_stock_new(&self, stock: Option<&Stock>) -> bool {
        let Some(last) = &self.written else {
            return true;
        };
        stock.map(|stock| stock.available) != last.available
    }

    /// Moves the cursor and writes the snapshot; the fence when a later leader has acted.
    async fn advance(
        &mut self,
        cursor: &Cursor,
        epoch: i64,
        now: DateTime<Utc>,
        sale: &SaleSettings,
        stock: Option<Stock>,
    ) -> Result<Option<i64>, ReleaseError> {
        if self.written.is_none() {
            self.written = cursor.written(sale.event_id).await?;
        }
        let state = sale.state_at(now, stock);
        // Whoever is called while every seat is held would find nothing; seats may come back.
        let is_something_left = stock.is_none_or(|stock| stock.available > 0);
        let rate = if state == SaleState::Open && is_something_left {
            sale.rate_per_minute
        } else {
            0
        };
        let calls = self.pace.grant(now, rate);
        let ticked = match cursor.tick(epoch, now, calls, sale).await? {
            Ticked::Moved(moved) => moved,
            Ticked::Fenced(fence) => return Ok(Some(fence)),
        };
        self.pace.spend(ticked.called, ticked.waiting() > 0);
        self.version = Some(sale.version);
        metrics::counter!("admission_calls_total").increment(u64::from(ticked.called));

        let mut next = snapshot::take(now, sale, state, stock, &ticked);
        let seq = self.written.as_ref().map_or(0, |last| last.seq);
        let is_new = self
            .written
            .as_ref()
            .is_none_or(|last| snapshot::differ(last, &next));
        next.seq = if is_new { seq + 1 } else { seq };
        let is_old = self
            .written
            .as_ref()
            .is_none_or(|last| now - last.at >= REWRITE_AFTER);
        if (is_new || is_old) && cursor.write(epoch, &next).await? {
            self.written = Some(next);
        }
        Ok(None)
    }
}

/// The sales whose stock is wanted, and what was read.
#[derive(Default)]
struct Shelf {
    wanted: Mutex<HashSet<EventId>>,
    stock: Mutex<HashMap<EventId, Stock>>,
}

/// Releases places until soft shutdown, whenever this node is the leader.
pub(crate) async fn run(desk: Arc<Desk>) -> anyhow::Result<()> {
    let shelf = Shelf::default();
    let mut leader = Leader::new(
        desk.ctx.redis.clone(),
        &desk.ctx.config.namespace,
        &desk.ctx.node,
    );
    {
        let work =
            async { tokio::join!(lead(&desk, &mut leader, &shelf), take_stock(&desk, &shelf)) };
        desk.ctx.shutdown.soft().run_until_cancelled(work).await;
    }
    if let Err(error) = leader.resign().await {
        tracing::warn!(%error, "the lease was not given up; it ends by itself");
    }
    Ok(())
}

async fn lead(desk: &Desk, leader: &mut Leader, shelf: &Shelf) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = desk.ctx.clock.now();
        let stock = shelf
            .stock
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        match leader.tick(now, &desk.sales.all(), &stock).await {
            Ok(seen) => {
                let mut wanted = shelf.wanted.lock().unwrap_or_else(PoisonError::into_inner);
                wanted.extend(seen.into_iter().flatten());
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "a tick failed");
            }
        }
    }
}

/// Reads the stock of the sales that the leader looked at, in one query a second.
async fn take_stock(desk: &Desk, shelf: &Shelf) {
    let mut ticks = tokio::time::interval(STOCK_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let wanted: Vec<EventId> = {
            let mut wanted = shelf.wanted.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.drain().collect()
        };
        if wanted.is_empty() {
            continue;
        }
        match store::stock::of(&desk.ctx.db, &wanted).await {
            Ok(read) => {
                let mut stock = shelf.stock.lock().unwrap_or_else(PoisonError::into_inner);
                stock.extend(read);
            }
            Err(error) => tracing::warn!(%error, "the stock was not read"),
        }
    }
}
