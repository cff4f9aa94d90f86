//! The release loop: four times a second the leader moves the sales in which something may happen,
//! and tells everyone who waits.
//!
//! What is decided is decided by [`domain::release`]. Here is what surrounds it: who leads, what is
//! known, and that what was decided is written once. A leader reads all it needs from PostgreSQL
//! when it becomes one, and from then on what changed. A line is written only as it was left by
//! whoever wrote it last; otherwise the leader forgets it, and reads it again.

mod lease;
mod line;
pub(crate) mod load;
mod presence;
mod store;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::EventId;
use domain::queue::SEEN_PART;
use domain::release::{Brake, Load};
use domain::sale::{SaleSettings, SaleState, Stock};
use platform::service::Context;
use tokio::time::MissedTickBehavior;

use crate::{Desk, store as desk_store};
use line::Line;
use presence::Presence;
use store::{AtGate, Joined, ToWrite};

pub use domain::release::TICK;

/// A sale with nobody in its line is looked at in one of so many ticks.
const IDLE_TICKS: u64 = 32;
/// An ended one in one of so many.
const CLOSED_TICKS: u64 = 240;
/// It is read in one of so many ticks who is present.
const PRESENCE_TICKS: u64 = 4;
/// How often stock and load are read.
const MEASURE_PERIOD: Duration = Duration::from_secs(1);
/// A row is seen only when its transaction commits, so each read begins this long before the last.
const OVERLAP: TimeDelta = TimeDelta::seconds(5);

/// A node that releases places while it has the lease.
pub struct Leader {
    ctx: Context,
    node: String,
    lines: HashMap<EventId, Line>,
    joined: HashMap<EventId, Joined>,
    joined_read_at: Option<DateTime<Utc>>,
    presence: Presence,
    brake: Brake,
    ticks: u64,
}

impl Leader {
    /// A candidate named `node`, which must differ from all others.
    #[must_use]
    pub fn new(ctx: Context, node: &str) -> Self {
        Self {
            ctx,
            node: node.to_owned(),
            lines: HashMap::new(),
            joined: HashMap::new(),
            joined_read_at: None,
            presence: Presence::default(),
            brake: Brake::default(),
            ticks: 0,
        }
    }

    /// Moves the sales on to `now` if this node is, or becomes, the leader; `None` when it is not.
    /// Returns the sales it looked at, whose stock should be known next time.
    ///
    /// # Errors
    /// When PostgreSQL fails. What was written stays; what was not is decided again.
    pub async fn tick(
        &mut self,
        now: DateTime<Utc>,
        sales: &[Arc<SaleSettings>],
        stock: &HashMap<EventId, Stock>,
    ) -> Result<Option<Vec<EventId>>, sqlx::Error> {
        let Some(epoch) = lease::hold(&self.ctx.db, &self.node).await? else {
            self.forget();
            return Ok(None);
        };
        self.ticks = self.ticks.wrapping_add(1);
        self.read_joined().await?;
        self.load(now, sales).await?;
        let due: Vec<Arc<SaleSettings>> = sales
            .iter()
            .filter(|sale| self.is_due(now, sale, stock.get(&sale.event_id)))
            .cloned()
            .collect();
        let known: Vec<_> = due.iter().map(|sale| self.known(sale.event_id)).collect();
        let mut gates = if due.is_empty() {
            HashMap::new()
        } else {
            store::at_gates(&self.ctx.db, &known).await?
        };
        self.look(now, &due).await;
        let mut steps = Vec::new();
        for sale in &due {
            let gate = gates.remove(&sale.event_id).unwrap_or_default();
            let stock = stock.get(&sale.event_id).copied();
            steps.extend(self.step(now, sale, stock, gate).await?);
        }
        self.write(epoch, &steps).await?;
        self.measure();
        Ok(Some(due.iter().map(|sale| sale.event_id).collect()))
    }

    /// Takes in how strained is what stands behind the gate.
    pub fn feel(&mut self, now: DateTime<Utc>, load: &Load) {
        self.brake.feel(now, load);
        let state = self.brake.state();
        metrics::gauge!("admission_brake_percent").set(f64::from(state.percent));
    }

    /// Gives the lease up, so that another node need not wait for its end.
    ///
    /// # Errors
    /// When PostgreSQL fails; the lease then ends by itself within seconds.
    pub async fn resign(&mut self) -> Result<(), sqlx::Error> {
        self.forget();
        lease::give_up(&self.ctx.db, &self.node).await
    }

    fn forget(&mut self) {
        self.lines.clear();
        self.joined.clear();
        self.joined_read_at = None;
    }

    async fn read_joined(&mut self) -> Result<(), sqlx::Error> {
        let since = self.joined_read_at.map(|at| at - OVERLAP);
        let (read_at, joined) = store::joined(&self.ctx.db, since).await?;
        self.joined_read_at = Some(read_at);
        self.joined.extend(joined);
        Ok(())
    }

    /// Reads the lines that are not known: all of them after a change of leader.
    async fn load(
        &mut self,
        now: DateTime<Utc>,
        sales: &[Arc<SaleSettings>],
    ) -> Result<(), sqlx::Error> {
        let unknown: Vec<&Arc<SaleSettings>> = sales
            .iter()
            .filter(|sale| !self.lines.contains_key(&sale.event_id))
            .collect();
        if unknown.is_empty() {
            return Ok(());
        }
        let ids: Vec<EventId> = unknown.iter().map(|sale| sale.event_id).collect();
        let mut written = store::lines(&self.ctx.db, &ids).await?;
        let moved: Vec<EventId> = written.keys().copied().collect();
        let mut moves = store::moves(&self.ctx.db, &moved).await?;
        let parts = |id: &EventId| {
            let joined = self.joined.get(id).map_or(0, |known| known.joined);
            (*id, 0..=joined / SEEN_PART)
        };
        let waited: Vec<_> = moved.iter().map(parts).collect();
        let mut seen = self.presence.kept(&self.ctx, now, &waited).await;
        for sale in unknown {
            let id = sale.event_id;
            let written = written.remove(&id);
            let moves = moves.remove(&id).unwrap_or_default();
            let joined = self.joined.get(&id).copied().unwrap_or_default();
            let kept = seen.remove(&id).unwrap_or_default();
            let line = Line::recall(&self.ctx, now, sale, written, &moves, joined, &kept);
            let line = line.await?;
            self.lines.insert(id, line);
        }
        Ok(())
    }

    fn known(&self, event_id: EventId) -> (EventId, i64, i64) {
        let line = &self.lines[&event_id];
        (event_id, line.claims, line.leavings)
    }

    fn is_due(&self, now: DateTime<Utc>, sale: &SaleSettings, stock: Option<&Stock>) -> bool {
        let line = &self.lines[&sale.event_id];
        let joined = self.joined.get(&sale.event_id).copied().unwrap_or_default();
        let told = line.release.told();
        let period = if told.is_some_and(|told| told.state == SaleState::Closed) {
            CLOSED_TICKS
        } else {
            IDLE_TICKS
        };
        let is_moving = told.is_none_or(|told| told.shopping > 0) || line.release.is_busy();
        let is_closed = period == CLOSED_TICKS;
        line.version != Some(sale.version)
            || (is_moving && !is_closed)
            || line.joined != joined
            || line.state_at(now, sale, stock.copied()) != told.map(|told| told.state)
            || (stock.is_some()
                && stock.map(|stock| stock.available) != told.and_then(|told| told.available))
            || self.is_turn(sale.event_id, period)
    }

    /// Spreads the sales over `period` ticks.
    fn is_turn(&self, event_id: EventId, period: u64) -> bool {
        self.ticks % period == event_id.0.unsigned_abs() % period
    }

    /// Sees who joined, and who is present where it is their turn. While Redis is away everybody is
    /// as they were seen last.
    async fn look(&mut self, now: DateTime<Utc>, due: &[Arc<SaleSettings>]) {
        let mut waited_for = Vec::new();
        for id in due.iter().map(|sale| sale.event_id) {
            let is_turn = self.is_turn(id, PRESENCE_TICKS);
            if let Some(line) = self.lines.get_mut(&id) {
                line.joined = self.joined.get(&id).copied().unwrap_or_default();
                if is_turn && line.is_waited_for() {
                    waited_for.push((id, line.release.seen_parts()));
                }
            }
        }
        for (id, slots) in self.presence.newest(&self.ctx, now, &waited_for).await {
            if let Some(line) = self.lines.get_mut(&id) {
                presence::take_in(&mut line.release, &slots);
            }
        }
    }

    async fn step(
        &mut self,
        now: DateTime<Utc>,
        sale: &SaleSettings,
        stock: Option<Stock>,
        gate: AtGate,
    ) -> Result<Option<ToWrite>, sqlx::Error> {
        let line = self
            .lines
            .get_mut(&sale.event_id)
            .expect("a line is known when it is due");
        line.prepare_lottery(&self.ctx, now, sale).await?;
        Ok(line.step(now, sale, stock, &gate, self.brake.state()))
    }

    /// Writes what was decided. What could not be written is forgotten, and read again.
    async fn write(&mut self, epoch: i64, steps: &[ToWrite]) -> Result<(), sqlx::Error> {
        if steps.is_empty() {
            return Ok(());
        }
        let outcome = store::write(&self.ctx.db, epoch, steps).await;
        let written: &[EventId] = outcome.as_deref().unwrap_or(&[]);
        for line in steps {
            let id = line.step.snapshot.event_id;
            if !written.contains(&id) {
                self.lines.remove(&id);
            }
        }
        outcome.map(|_| ())
    }

    fn measure(&mut self) {
        let (mut waiting, mut shopping) = (0, 0);
        for line in self.lines.values_mut() {
            if let Some(told) = line.release.told() {
                waiting += told.waiting;
                shopping += told.shopping;
            }
            let outcomes = line.release.take_outcomes();
            for (within, count) in [
                ("p50", outcomes.by_p50),
                ("p90", outcomes.by_p90),
                ("later", outcomes.later),
            ] {
                metrics::counter!("admission_eta_outcomes_total", "within" => within)
                    .increment(count);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "gauges")]
        let (waiting, shopping) = (waiting as f64, shopping as f64);
        metrics::gauge!("admission_waiting_places").set(waiting);
        metrics::gauge!("admission_shoppers").set(shopping);
    }
}

/// What is measured beside the loop.
#[derive(Default)]
struct Measured {
    /// The sales whose stock is wanted.
    wanted: HashSet<EventId>,
    stock: HashMap<EventId, Stock>,
    load: Option<Load>,
}

/// Releases places until soft shutdown, whenever this node is the leader.
pub(crate) async fn run(desk: Arc<Desk>) -> anyhow::Result<()> {
    let measured = Mutex::new(Measured::default());
    let mut leader = Leader::new(desk.ctx.clone(), &desk.ctx.node);
    {
        let work = Box::pin(async {
            tokio::join!(
                lead(&desk, &mut leader, &measured),
                measure(&desk, &measured),
                tell_answers(&desk),
            )
        });
        desk.ctx.shutdown.soft().run_until_cancelled(work).await;
    }
    if let Err(error) = leader.resign().await {
        tracing::warn!(%error, "the lease was not given up; it ends by itself");
    }
    Ok(())
}

async fn lead(desk: &Desk, leader: &mut Leader, measured: &Mutex<Measured>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let now = desk.ctx.clock.now();
        let (stock, load) = {
            let mut measured = measured.lock().unwrap_or_else(PoisonError::into_inner);
            (measured.stock.clone(), measured.load.take())
        };
        if let Some(load) = load {
            leader.feel(now, &load);
        }
        match leader.tick(now, &desk.sales.all(), &stock).await {
            Ok(seen) => {
                let mut measured = measured.lock().unwrap_or_else(PoisonError::into_inner);
                measured.wanted.extend(seen.into_iter().flatten());
            }
            Err(error) => tracing::warn!(%error, "a tick failed"),
        }
    }
}

/// Reads the stock of the sales that the leader looked at, and the load, once a second.
async fn measure(desk: &Desk, measured: &Mutex<Measured>) {
    let mut ticks = tokio::time::interval(MEASURE_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let wanted: Vec<EventId> = {
            let mut measured = measured.lock().unwrap_or_else(PoisonError::into_inner);
            measured.wanted.drain().collect()
        };
        if wanted.is_empty() {
            continue;
        }
        match desk_store::stock::of(&desk.ctx.db, &wanted).await {
            Ok(read) => {
                let mut measured = measured.lock().unwrap_or_else(PoisonError::into_inner);
                measured.stock.extend(read);
            }
            Err(error) => tracing::warn!(%error, "the stock was not read"),
        }
        match load::measure(&desk.ctx.db).await {
            Ok(load) => {
                let mut measured = measured.lock().unwrap_or_else(PoisonError::into_inner);
                measured.load = Some(load);
            }
            Err(error) => tracing::warn!(%error, "the load was not measured"),
        }
    }
}

/// Tells the leader, whichever node that is, how this node answers.
async fn tell_answers(desk: &Desk) {
    let mut ticks = tokio::time::interval(load::PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = desk.answers.tell(&desk.ctx.db, &desk.ctx.node).await {
            tracing::warn!(%error, "it was not written down how bookings were answered");
        }
    }
}
