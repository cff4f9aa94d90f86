//! The release loop: four times a second each node advances those sales of its shards in which
//! something may happen, and publishes their snapshots.
//!
//! [`domain::release`] makes the decisions. This module does the rest: leases over shards
//! ([`Leases`]), the state of each line, and writing each decision once. A write is guarded by the
//! fencing token (the shard's epoch) and by the line's last `seq`; if it is refused, the leader
//! drops the line and reads it again. A tick does nothing slow: lines are read, lobbies drawn and
//! checkpoints made in background tasks, and a sale that fails is quarantined without stopping the
//! others.

mod background;
mod checkpoint;
mod lease;
mod line;
pub mod load;
mod loader;
mod presence;
mod quarantine;
mod run;
mod store;
mod task;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::EventId;
use domain::release::{Brake, Load};
use domain::sale::{SaleSettings, SaleState, Stock};
use platform::service::Context;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::store::position::ReadPosition;
use background::Background;
use line::Line;
use loader::LineRequest;
use presence::Presence;
use quarantine::{Quarantine, SaleFailure};
use store::{GateChanges, JoinCounts, PendingStep};
use task::{Advanced, TaskId, TaskOutcome};

pub use domain::release::TICK;
pub use lease::{HeldShards, Leases};
pub(crate) use run::run;

/// An idle sale, with nobody in its line, is due in one of this many ticks.
const IDLE_TICKS: u64 = 32;
/// An ended sale is due in one of this many ticks.
const CLOSED_TICKS: u64 = 240;
/// Presence is read in one of this many ticks.
const PRESENCE_TICKS: u64 = 4;
/// Lines read in one batch.
const LOAD_BATCH: usize = 128;
/// Ended sales checked for rest in one batch.
const REST_BATCH: usize = 1_000;
/// Lines written in one transaction.
const WRITE_BATCH: usize = 256;
/// Pool size of the loop and its background tasks: one connection for the tick, one for each task.
const DB_CONNECTIONS: u32 = 6;

/// The release loop of a node.
pub struct Leader {
    /// The service's context, with its shared pool.
    source: Context,
    background: Background,
    lines: HashMap<EventId, Line>,
    /// Lines that background tasks are reading or ordering.
    awaited: HashMap<EventId, TaskId>,
    last_task: TaskId,
    /// Ended sales at rest, with the version of their settings.
    resting: HashMap<EventId, i64>,
    /// Ended sales that are not at rest yet.
    draining: HashSet<EventId>,
    quarantine: Quarantine,
    joined: HashMap<EventId, JoinCounts>,
    joined_read: Option<ReadPosition>,
    presence: Presence,
    brake: Brake,
    generation: Option<Uuid>,
    ticks: u64,
}

impl Leader {
    /// A loop with a small pool of its own to the database of `ctx`, so that public traffic can't
    /// starve it.
    #[must_use]
    pub fn new(ctx: &Context) -> Self {
        Self {
            background: Background::new(run::on_own_pool(ctx, DB_CONNECTIONS)),
            source: ctx.clone(),
            lines: HashMap::new(),
            awaited: HashMap::new(),
            last_task: 0,
            resting: HashMap::new(),
            draining: HashSet::new(),
            quarantine: Quarantine::default(),
            joined: HashMap::new(),
            joined_read: None,
            presence: Presence::default(),
            brake: Brake::default(),
            generation: None,
            ticks: 0,
        }
    }

    /// Advances those of `sales` to `now` whose shards are `held`. Returns the sales that were due,
    /// whose stock the next tick needs.
    ///
    /// # Errors
    /// When PostgreSQL fails. Lines that were written stay; the others are decided again.
    pub async fn tick(
        &mut self,
        held: &HeldShards,
        now: DateTime<Utc>,
        sales: &[Arc<SaleSettings>],
        stock: &HashMap<EventId, Stock>,
    ) -> Result<Vec<EventId>, sqlx::Error> {
        if held.is_empty() {
            self.forget();
            return Ok(Vec::new());
        }
        self.ticks = self.ticks.wrapping_add(1);
        self.drop_lost(held);
        self.apply_outcomes(now);
        self.read_joined().await?;
        let mine: Vec<&Arc<SaleSettings>> = sales
            .iter()
            .filter(|sale| held.epoch_of(sale.event_id).is_some())
            .collect();
        self.load_missing(held, now, &mine);
        let due: Vec<&Arc<SaleSettings>> = mine
            .into_iter()
            .filter(|sale| self.is_due(now, sale, stock.get(&sale.event_id)))
            .collect();
        let known: Vec<_> = due.iter().map(|sale| self.known(sale.event_id)).collect();
        let mut gates = if due.is_empty() {
            HashMap::new()
        } else {
            store::gate_changes(self.background.db(), &known).await?
        };
        self.look(now, &due).await;
        let mut steps = Vec::new();
        for sale in &due {
            let gate = gates.remove(&sale.event_id).unwrap_or_default();
            let stock = stock.get(&sale.event_id).copied();
            steps.extend(self.step(now, sale, stock, &gate));
        }
        self.write(now, &steps).await?;
        self.unload_resting(&due);
        self.measure();
        Ok(due.iter().map(|sale| sale.event_id).collect())
    }

    /// Feeds the AIMD brake with the load behind the gate.
    pub fn observe(&mut self, now: DateTime<Utc>, load: &Load) {
        self.brake.observe(now, load);
        let state = self.brake.state();
        metrics::gauge!("admission_brake_percent").set(f64::from(state.percent));
    }

    /// Drops all state and every connection: a silent one would delay tick after tick.
    pub(crate) fn reconnect(&mut self) {
        self.forget();
        self.background = Background::new(run::on_own_pool(&self.source, DB_CONNECTIONS));
    }

    /// Notified when lines have been read and are ready to advance.
    pub(crate) fn arrived(&self) -> Arc<Notify> {
        self.background.arrived()
    }

    /// Waits for every background task, and returns whether any ran. The next tick applies their
    /// outcomes.
    pub async fn settle(&mut self) -> bool {
        self.background.settle().await
    }

    fn forget(&mut self) {
        if self.joined_read.is_some() {
            self.background.forget();
        }
        self.lines.clear();
        self.awaited.clear();
        self.resting.clear();
        self.draining.clear();
        self.joined.clear();
        self.joined_read = None;
        self.quarantine.retain(|_| false);
    }

    /// Drops the lines of shards that changed hands, even if they came back, and everything when
    /// the database's history changed (a failover).
    fn drop_lost(&mut self, held: &HeldShards) {
        if self.generation != held.generation() {
            self.forget();
            self.generation = held.generation();
        }
        let is_mine = |event_id: &EventId| held.epoch_of(*event_id).is_some();
        self.lines
            .retain(|event_id, line| held.epoch_of(*event_id) == Some(line.epoch));
        self.awaited.retain(|event_id, _| is_mine(event_id));
        self.resting.retain(|event_id, _| is_mine(event_id));
        self.draining.retain(is_mine);
        self.quarantine.retain(|event_id| is_mine(&event_id));
    }

    /// Applies the outcomes of background tasks.
    fn apply_outcomes(&mut self, now: DateTime<Utc>) {
        while let Some(done) = self.background.try_next() {
            match done {
                TaskOutcome::Loaded(event_id, task, line) => {
                    if self.end_wait(event_id, task) {
                        self.lines.insert(event_id, *line);
                    }
                }
                TaskOutcome::Failed(task, failure) => {
                    if self.end_wait(failure.event_id, task) {
                        self.quarantine.add(now, &failure);
                    }
                }
                TaskOutcome::NotLoaded(tasks) => {
                    for (event_id, task) in tasks {
                        self.end_wait(event_id, task);
                    }
                }
                TaskOutcome::AtRest(asked, resting) => {
                    for (event_id, version) in asked {
                        if resting.contains(&event_id) {
                            self.resting.insert(event_id, version);
                        } else {
                            self.draining.insert(event_id);
                        }
                    }
                }
                TaskOutcome::Lottery(event_id, epoch, outcome) => {
                    self.apply_lottery(now, event_id, epoch, outcome);
                }
                TaskOutcome::Compacted(event_id, has_more) => {
                    if let Some(line) = self.lines.get_mut(&event_id) {
                        line.is_compacting = false;
                        if has_more == Some(false) {
                            line.unfolded = 0;
                        }
                    }
                }
            }
        }
    }

    /// Ends the wait for the line, if it is for this task, and returns whether it was.
    fn end_wait(&mut self, event_id: EventId, task: TaskId) -> bool {
        let is_awaited = self.awaited.get(&event_id) == Some(&task);
        if is_awaited {
            self.awaited.remove(&event_id);
        }
        is_awaited
    }

    fn await_line(&mut self, event_id: EventId) -> TaskId {
        self.last_task += 1;
        self.awaited.insert(event_id, self.last_task);
        self.last_task
    }

    fn apply_lottery(
        &mut self,
        now: DateTime<Utc>,
        event_id: EventId,
        epoch: i64,
        outcome: Result<Advanced, String>,
    ) {
        let Some(line) = self.lines.get_mut(&event_id) else {
            return;
        };
        if line.epoch != epoch {
            return;
        }
        line.is_drawing = false;
        match outcome {
            Ok((lottery, order)) => {
                line.lottery = lottery;
                if let Some(order) = order
                    && let Some(line) = self.lines.remove(&event_id)
                {
                    let task = self.await_line(event_id);
                    self.background.order(event_id, task, Box::new(line), order);
                }
            }
            Err(error) => {
                self.lines.remove(&event_id);
                let failure = SaleFailure {
                    event_id,
                    step: "lottery",
                    error,
                };
                self.quarantine.add(now, &failure);
            }
        }
    }

    async fn read_joined(&mut self) -> Result<(), sqlx::Error> {
        let since = self.joined_read.as_ref();
        let (reading, joined) = store::joined(self.background.db(), since).await?;
        self.joined_read = Some(reading);
        self.joined.extend(joined);
        Ok(())
    }

    /// Starts reading lines that are not loaded: those with waiters first, and last the ended sales
    /// that are not at rest.
    fn load_missing(
        &mut self,
        held: &HeldShards,
        now: DateTime<Utc>,
        sales: &[&Arc<SaleSettings>],
    ) {
        let (mut unknown, mut ended) = (Vec::new(), Vec::new());
        for sale in sales.iter().copied() {
            let id = sale.event_id;
            let is_here = self.lines.contains_key(&id) || self.awaited.contains_key(&id);
            if is_here || self.quarantine.contains(id, now) {
                continue;
            }
            if sale.state_at(now, None) != SaleState::Closed || self.draining.contains(&id) {
                unknown.push(sale);
            } else if self.resting.get(&id) != Some(&sale.version) {
                ended.push((id, sale.version));
            }
        }
        unknown.sort_by_key(|sale| {
            let is_joined = self.joined_of(sale.event_id).joined > 0;
            !(is_joined && sale.state_at(now, None).is_joinable())
        });
        for some in unknown.chunks(LOAD_BATCH) {
            let Some(permit) = self.background.reader() else {
                return;
            };
            let wanted = some.iter().filter_map(|sale| {
                Some(LineRequest {
                    sale: Arc::clone(sale),
                    joined: self.joined_of(sale.event_id),
                    epoch: held.epoch_of(sale.event_id)?,
                    task: self.await_line(sale.event_id),
                })
            });
            let wanted = wanted.collect();
            self.background
                .load(permit, self.presence.clone(), now, wanted);
        }
        ended.truncate(REST_BATCH);
        if !ended.is_empty()
            && let Some(permit) = self.background.reader()
        {
            self.background.check_rest(permit, ended);
        }
    }

    fn joined_of(&self, event_id: EventId) -> JoinCounts {
        self.joined.get(&event_id).copied().unwrap_or_default()
    }

    fn known(&self, event_id: EventId) -> (EventId, i64, i64) {
        let line = &self.lines[&event_id];
        (event_id, line.claims, line.leavings)
    }

    fn is_due(&self, now: DateTime<Utc>, sale: &SaleSettings, stock: Option<&Stock>) -> bool {
        let Some(line) = self.lines.get(&sale.event_id) else {
            return false;
        };
        let published = line.release.published();
        let period = if published.is_some_and(|published| published.state == SaleState::Closed) {
            CLOSED_TICKS
        } else {
            IDLE_TICKS
        };
        let is_moving =
            published.is_none_or(|published| published.shopping > 0) || line.release.is_busy();
        let is_closed = period == CLOSED_TICKS;
        line.version != Some(sale.version)
            || (is_moving && !is_closed)
            || line.joined != self.joined_of(sale.event_id)
            || line.state_at(now, sale, stock.copied())
                != published.map(|published| published.state)
            || (stock.is_some()
                && stock.map(|stock| stock.available)
                    != published.and_then(|published| published.available))
            || line.lottery_step(now, sale).is_some()
            || published.is_some_and(|published| published.lottery != line.lottery)
            || self.is_turn(sale.event_id, period)
    }

    /// Returns whether the sale is due in this of `period` ticks, over which sales are spread.
    fn is_turn(&self, event_id: EventId, period: u64) -> bool {
        self.ticks % period == event_id.0.unsigned_abs() % period
    }

    /// Updates joins, and presence where it is due. While Redis is unavailable, presence stays as
    /// it was read last.
    async fn look(&mut self, now: DateTime<Utc>, due: &[&Arc<SaleSettings>]) {
        let mut waited = Vec::new();
        for id in due.iter().map(|sale| sale.event_id) {
            let is_turn = self.is_turn(id, PRESENCE_TICKS);
            let joined = self.joined_of(id);
            if let Some(line) = self.lines.get_mut(&id) {
                line.joined = joined;
                if is_turn && line.has_waiters() {
                    waited.push((id, line.release.presence_parts()));
                }
            }
        }
        let newest = self.presence.newest(self.background.ctx(), now, &waited);
        for (id, slots) in newest.await {
            if let Some(line) = self.lines.get_mut(&id) {
                presence::apply(&mut line.release, &slots);
            }
        }
    }

    fn step(
        &mut self,
        now: DateTime<Utc>,
        sale: &Arc<SaleSettings>,
        stock: Option<Stock>,
        gate: &GateChanges,
    ) -> Option<PendingStep> {
        let line = self.lines.get_mut(&sale.event_id)?;
        line.drop_lottery(now, sale);
        if let Some(step) = line.lottery_step(now, sale) {
            line.is_drawing = true;
            let joined = line.joined.joined;
            self.background
                .advance_lottery(now, sale, line.epoch, (step, joined));
        }
        if line.awaits_commitment(sale) {
            return None;
        }
        match line.step(now, sale, stock, gate, self.brake.state()) {
            Ok(step) => {
                if step.is_none() && !line.is_drawing {
                    self.quarantine.release(sale.event_id);
                }
                step
            }
            Err(_) => {
                self.lines.remove(&sale.event_id);
                let failure = SaleFailure {
                    event_id: sale.event_id,
                    step: "step",
                    error: "panicked".to_owned(),
                };
                self.quarantine.add(now, &failure);
                None
            }
        }
    }

    /// Writes the steps. A line that could not be written is dropped, and read again.
    async fn write(
        &mut self,
        now: DateTime<Utc>,
        steps: &[PendingStep],
    ) -> Result<(), sqlx::Error> {
        let mut outcome = Ok(());
        for some in steps.chunks(WRITE_BATCH) {
            match store::write(self.background.db(), some).await {
                Ok(written) => self.note_written(some, &written),
                Err(error) if quarantine::is_of_one_sale(&error) => {
                    outcome = outcome.and(self.write_one_by_one(now, some).await);
                }
                Err(error) => {
                    self.note_written(some, &HashSet::new());
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    /// Writes the steps singly, after one of them failed the batch.
    async fn write_one_by_one(
        &mut self,
        now: DateTime<Utc>,
        steps: &[PendingStep],
    ) -> Result<(), sqlx::Error> {
        let mut outcome = Ok(());
        for one in steps {
            let written = store::write(self.background.db(), std::slice::from_ref(one)).await;
            let written = match written {
                Ok(written) => written,
                Err(error) => {
                    if quarantine::is_of_one_sale(&error) {
                        let failure = SaleFailure {
                            event_id: one.step.snapshot.event_id,
                            step: "write",
                            error: error.to_string(),
                        };
                        self.quarantine.add(now, &failure);
                    } else {
                        outcome = Err(error);
                    }
                    HashSet::new()
                }
            };
            self.note_written(std::slice::from_ref(one), &written);
        }
        outcome
    }

    fn note_written(&mut self, steps: &[PendingStep], written: &HashSet<EventId>) {
        for step in steps {
            let id = step.step.snapshot.event_id;
            if !written.contains(&id) {
                self.lines.remove(&id);
                continue;
            }
            let Some(line) = self.lines.get_mut(&id) else {
                continue;
            };
            if !line.is_drawing {
                self.quarantine.release(id);
            }
            if line.unfolded >= checkpoint::WORTH_WHILE && !line.is_compacting {
                line.is_compacting = true;
                self.background.compact(id, step.step.snapshot.seq);
            }
        }
    }

    /// Unloads ended sales in which nothing will happen any more; from then on they cost nothing.
    fn unload_resting(&mut self, due: &[&Arc<SaleSettings>]) {
        for sale in due {
            let id = sale.event_id;
            if let Some(line) = self.lines.get(&id).filter(|line| line.is_at_rest(sale)) {
                if line.unfolded > 0
                    && let Some(published) = line.release.published()
                {
                    self.background.compact(id, published.seq);
                }
                self.lines.remove(&id);
                self.draining.remove(&id);
                self.resting.insert(id, sale.version);
            }
        }
    }

    fn measure(&mut self) {
        let (mut waiting, mut shopping) = (0, 0);
        let mut within = [("p50", 0), ("p90", 0), ("later", 0)];
        for line in self.lines.values_mut() {
            if let Some(published) = line.release.published() {
                waiting += published.waiting;
                shopping += published.shopping;
            }
            let outcomes = line.release.take_outcomes();
            within[0].1 += outcomes.by_p50;
            within[1].1 += outcomes.by_p90;
            within[2].1 += outcomes.later;
        }
        for (within, count) in within {
            metrics::counter!("admission_eta_outcomes_total", "within" => within).increment(count);
        }
        #[expect(clippy::cast_precision_loss, reason = "gauges")]
        let (waiting, shopping, lines) = (waiting as f64, shopping as f64, self.lines.len() as f64);
        metrics::gauge!("admission_waiting_places").set(waiting);
        metrics::gauge!("admission_shoppers").set(shopping);
        metrics::gauge!("admission_led_sales").set(lines);
    }
}
