//! The release loop: four times a second each node advances those sales of its shards in which
//! something may happen, and publishes their snapshots.
//!
//! [`domain::release`] makes the decisions. This module does the rest: leases over shards
//! ([`Leases`]), the state of each line, and writing each decision once. A write is guarded by the
//! fencing token (the shard's epoch) and by the line's last `seq`; if it is refused, the leader
//! drops the line and reads it again. A tick does nothing slow: lines are read, lobbies drawn and
//! checkpoints made in background tasks, and a sale that fails is quarantined without stopping the
//! others.

mod beside;
mod checkpoint;
mod done;
mod lease;
mod line;
pub mod load;
mod presence;
mod quarantine;
mod recall;
mod run;
mod store;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::EventId;
use domain::release::{Brake, Load};
use domain::sale::{SaleSettings, SaleState, Stock};
use platform::service::Context;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::store::reading::Reading;
use beside::Beside;
use done::{Advanced, Done, Ticket};
use line::Line;
use presence::Presence;
use quarantine::{Failure, Quarantine};
use recall::Wanted;
use store::{AtGate, Joined, ToWrite};

pub use domain::release::TICK;
pub use lease::{Held, Leases};
pub(crate) use run::run;

/// An idle sale, with nobody in its line, is due in one of this many ticks.
const IDLE_TICKS: u64 = 32;
/// An ended sale is due in one of this many ticks.
const CLOSED_TICKS: u64 = 240;
/// Presence is read in one of this many ticks.
const PRESENCE_TICKS: u64 = 4;
/// Lines read in one batch.
const LINES_AT_ONCE: usize = 128;
/// Ended sales checked for rest in one batch.
const ENDED_AT_ONCE: usize = 1_000;
/// Lines written in one transaction.
const WRITTEN_AT_ONCE: usize = 256;
/// Pool size of the loop and its background tasks: one connection for the tick, one for each task.
const DB_CONNECTIONS: u32 = 6;

/// The release loop of a node.
pub struct Leader {
    /// The service's context, with its shared pool.
    source: Context,
    beside: Beside,
    lines: HashMap<EventId, Line>,
    /// Lines that background tasks are reading or ordering.
    awaited: HashMap<EventId, Ticket>,
    tickets: Ticket,
    /// Ended sales at rest, with the version of their settings.
    resting: HashMap<EventId, i64>,
    /// Ended sales that are not at rest yet.
    restless: HashSet<EventId>,
    quarantine: Quarantine,
    joined: HashMap<EventId, Joined>,
    joined_read: Option<Reading>,
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
            beside: Beside::new(run::on_own_pool(ctx, DB_CONNECTIONS)),
            source: ctx.clone(),
            lines: HashMap::new(),
            awaited: HashMap::new(),
            tickets: 0,
            resting: HashMap::new(),
            restless: HashSet::new(),
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
        held: &Held,
        now: DateTime<Utc>,
        sales: &[Arc<SaleSettings>],
        stock: &HashMap<EventId, Stock>,
    ) -> Result<Vec<EventId>, sqlx::Error> {
        if held.is_empty() {
            self.forget();
            return Ok(Vec::new());
        }
        self.ticks = self.ticks.wrapping_add(1);
        self.keep_held(held);
        self.take_outcomes(now);
        self.read_joined().await?;
        let mine: Vec<&Arc<SaleSettings>> = sales
            .iter()
            .filter(|sale| held.epoch_of(sale.event_id).is_some())
            .collect();
        self.read_unknown(held, now, &mine);
        let due: Vec<&Arc<SaleSettings>> = mine
            .into_iter()
            .filter(|sale| self.is_due(now, sale, stock.get(&sale.event_id)))
            .collect();
        let known: Vec<_> = due.iter().map(|sale| self.known(sale.event_id)).collect();
        let mut gates = if due.is_empty() {
            HashMap::new()
        } else {
            store::at_gates(self.beside.db(), &known).await?
        };
        self.look(now, &due).await;
        let mut steps = Vec::new();
        for sale in &due {
            let gate = gates.remove(&sale.event_id).unwrap_or_default();
            let stock = stock.get(&sale.event_id).copied();
            steps.extend(self.step(now, sale, stock, &gate));
        }
        self.write(now, &steps).await?;
        self.lay_to_rest(&due);
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
        self.beside = Beside::new(run::on_own_pool(&self.source, DB_CONNECTIONS));
    }

    /// Notified when lines have been read and are ready to advance.
    pub(crate) fn arrived(&self) -> Arc<Notify> {
        self.beside.arrived()
    }

    /// Waits for every background task, and returns whether any ran. The next tick applies their
    /// outcomes.
    pub async fn settle(&mut self) -> bool {
        self.beside.settle().await
    }

    fn forget(&mut self) {
        if self.joined_read.is_some() {
            self.beside.forget();
        }
        self.lines.clear();
        self.awaited.clear();
        self.resting.clear();
        self.restless.clear();
        self.joined.clear();
        self.joined_read = None;
        self.quarantine.retain(|_| false);
    }

    /// Drops the lines of shards that changed hands, even if they came back, and everything when
    /// the database's history changed (a failover).
    fn keep_held(&mut self, held: &Held) {
        if self.generation != held.generation() {
            self.forget();
            self.generation = held.generation();
        }
        let is_mine = |event_id: &EventId| held.epoch_of(*event_id).is_some();
        self.lines
            .retain(|event_id, line| held.epoch_of(*event_id) == Some(line.epoch));
        self.awaited.retain(|event_id, _| is_mine(event_id));
        self.resting.retain(|event_id, _| is_mine(event_id));
        self.restless.retain(is_mine);
        self.quarantine.retain(|event_id| is_mine(&event_id));
    }

    /// Applies the outcomes of background tasks.
    fn take_outcomes(&mut self, now: DateTime<Utc>) {
        while let Some(done) = self.beside.next() {
            match done {
                Done::Recalled(event_id, ticket, line) => {
                    if self.is_awaited(event_id, ticket) {
                        self.lines.insert(event_id, *line);
                    }
                }
                Done::Failed(ticket, failure) => {
                    if self.is_awaited(failure.event_id, ticket) {
                        self.quarantine.put(now, &failure);
                    }
                }
                Done::Unread(tickets) => {
                    for (event_id, ticket) in tickets {
                        self.is_awaited(event_id, ticket);
                    }
                }
                Done::AtRest(asked, resting) => {
                    for (event_id, version) in asked {
                        if resting.contains(&event_id) {
                            self.resting.insert(event_id, version);
                        } else {
                            self.restless.insert(event_id);
                        }
                    }
                }
                Done::Lottery(event_id, epoch, outcome) => {
                    self.take_lottery(now, event_id, epoch, outcome);
                }
                Done::Compacted(event_id, has_more) => {
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

    /// Settles the ticket, and returns whether the line was still awaited under it.
    fn is_awaited(&mut self, event_id: EventId, ticket: Ticket) -> bool {
        let is_awaited = self.awaited.get(&event_id) == Some(&ticket);
        if is_awaited {
            self.awaited.remove(&event_id);
        }
        is_awaited
    }

    fn await_line(&mut self, event_id: EventId) -> Ticket {
        self.tickets += 1;
        self.awaited.insert(event_id, self.tickets);
        self.tickets
    }

    fn take_lottery(
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
                    let ticket = self.await_line(event_id);
                    self.beside.order(event_id, ticket, Box::new(line), order);
                }
            }
            Err(error) => {
                self.lines.remove(&event_id);
                let failure = Failure {
                    event_id,
                    step: "lottery",
                    error,
                };
                self.quarantine.put(now, &failure);
            }
        }
    }

    async fn read_joined(&mut self) -> Result<(), sqlx::Error> {
        let since = self.joined_read.as_ref();
        let (reading, joined) = store::joined(self.beside.db(), since).await?;
        self.joined_read = Some(reading);
        self.joined.extend(joined);
        Ok(())
    }

    /// Starts reading lines that are not loaded: those with waiters first, and last the ended sales
    /// that are not at rest.
    fn read_unknown(&mut self, held: &Held, now: DateTime<Utc>, sales: &[&Arc<SaleSettings>]) {
        let (mut unknown, mut ended) = (Vec::new(), Vec::new());
        for sale in sales.iter().copied() {
            let id = sale.event_id;
            let is_here = self.lines.contains_key(&id) || self.awaited.contains_key(&id);
            if is_here || self.quarantine.has(id, now) {
                continue;
            }
            if sale.state_at(now, None) != SaleState::Closed || self.restless.contains(&id) {
                unknown.push(sale);
            } else if self.resting.get(&id) != Some(&sale.version) {
                ended.push((id, sale.version));
            }
        }
        unknown.sort_by_key(|sale| {
            let is_joined = self.joined_of(sale.event_id).joined > 0;
            !(is_joined && sale.state_at(now, None).is_joinable())
        });
        for some in unknown.chunks(LINES_AT_ONCE) {
            let Some(permit) = self.beside.reader() else {
                return;
            };
            let wanted = some.iter().filter_map(|sale| {
                Some(Wanted {
                    sale: Arc::clone(sale),
                    joined: self.joined_of(sale.event_id),
                    epoch: held.epoch_of(sale.event_id)?,
                    ticket: self.await_line(sale.event_id),
                })
            });
            let wanted = wanted.collect();
            self.beside
                .recall(permit, self.presence.clone(), now, wanted);
        }
        ended.truncate(ENDED_AT_ONCE);
        if !ended.is_empty()
            && let Some(permit) = self.beside.reader()
        {
            self.beside.ask_rest(permit, ended);
        }
    }

    fn joined_of(&self, event_id: EventId) -> Joined {
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
            || line.need(now, sale).is_some()
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
        let mut waited_for = Vec::new();
        for id in due.iter().map(|sale| sale.event_id) {
            let is_turn = self.is_turn(id, PRESENCE_TICKS);
            let joined = self.joined_of(id);
            if let Some(line) = self.lines.get_mut(&id) {
                line.joined = joined;
                if is_turn && line.is_waited_for() {
                    waited_for.push((id, line.release.seen_parts()));
                }
            }
        }
        let newest = self.presence.newest(self.beside.ctx(), now, &waited_for);
        for (id, slots) in newest.await {
            if let Some(line) = self.lines.get_mut(&id) {
                presence::take_in(&mut line.release, &slots);
            }
        }
    }

    fn step(
        &mut self,
        now: DateTime<Utc>,
        sale: &Arc<SaleSettings>,
        stock: Option<Stock>,
        gate: &AtGate,
    ) -> Option<ToWrite> {
        let line = self.lines.get_mut(&sale.event_id)?;
        line.drop_lottery(now, sale);
        if let Some(need) = line.need(now, sale) {
            line.is_drawing = true;
            let joined = line.joined.joined;
            self.beside
                .advance_lottery(now, sale, line.epoch, (need, joined));
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
                let failure = Failure {
                    event_id: sale.event_id,
                    step: "step",
                    error: "panicked".to_owned(),
                };
                self.quarantine.put(now, &failure);
                None
            }
        }
    }

    /// Writes the steps. A line that could not be written is dropped, and read again.
    async fn write(&mut self, now: DateTime<Utc>, steps: &[ToWrite]) -> Result<(), sqlx::Error> {
        let mut outcome = Ok(());
        for some in steps.chunks(WRITTEN_AT_ONCE) {
            match store::write(self.beside.db(), some).await {
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
        steps: &[ToWrite],
    ) -> Result<(), sqlx::Error> {
        let mut outcome = Ok(());
        for one in steps {
            let written = store::write(self.beside.db(), std::slice::from_ref(one)).await;
            let written = match written {
                Ok(written) => written,
                Err(error) => {
                    if quarantine::is_of_one_sale(&error) {
                        let failure = Failure {
                            event_id: one.step.snapshot.event_id,
                            step: "write",
                            error: error.to_string(),
                        };
                        self.quarantine.put(now, &failure);
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

    fn note_written(&mut self, steps: &[ToWrite], written: &HashSet<EventId>) {
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
                self.beside.compact(id, step.step.snapshot.seq);
            }
        }
    }

    /// Unloads ended sales in which nothing will happen any more; from then on they cost nothing.
    fn lay_to_rest(&mut self, due: &[&Arc<SaleSettings>]) {
        for sale in due {
            let id = sale.event_id;
            if let Some(line) = self.lines.get(&id).filter(|line| line.is_at_rest(sale)) {
                if line.unfolded > 0
                    && let Some(published) = line.release.published()
                {
                    self.beside.compact(id, published.seq);
                }
                self.lines.remove(&id);
                self.restless.remove(&id);
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
