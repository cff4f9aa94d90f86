//! The core of the release loop: which places of a line to call, which to give up as no-shows, and
//! what to publish. Without I/O and without a clock of its own, so that a simulation follows the
//! same rules as the leader.
//!
//! **Order.** The lowest places that wait and are present are called first, wherever the cursor is.
//! A place that was passed while absent is therefore called before everybody behind it when it
//! comes back (I7), for as long as the sale lives: it costs one bit.
//!
//! **Rate.** Arrivals, not calls, meet the rate: the show rate is measured, and no-shows are
//! compensated by more calls. People in the ready line, and those still expected, count as
//! underway, so nobody is called while enough people are.
//!
//! A tick looks at words of 64 places, never at a place that is not called in it.

mod bits;
mod brake;
mod calls;
mod control;
mod forecast;
mod patience;
mod presence;
mod shows;
mod stock;
mod view;

use std::ops::RangeInclusive;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::line::{Move, Run};
use crate::lottery::Order;
use crate::queue::{Braking, Lottery, SEEN_PART, Snapshot, seen_slot};
use crate::sale::{SaleSettings, SaleState, Stock};
use crate::{Number, Place};

use bits::{Bits, members};
use calls::Calls;
use control::{Control, Limits};
use forecast::{Forecast, Progress};
use patience::Patience;
use presence::Presence;
use shows::Shows;
use stock::Appetite;

pub use brake::{Brake, Load};
pub use control::TICK;
pub use forecast::Outcomes;

/// The inputs of one step of a sale's release loop.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// The moment.
    pub now: DateTime<Utc>,
    /// The sale's settings.
    pub sale: &'a SaleSettings,
    /// Where the sale stands.
    pub state: SaleState,
    /// The highest number given.
    pub joined: i64,
    /// Numbers that left since the last step.
    pub left: &'a [Number],
    /// Places that claimed since the last step.
    pub claimed: &'a [Place],
    /// Places whose pass ended since the last step.
    pub over: &'a [Place],
    /// The ready line.
    pub ready: &'a [Place],
    /// Number of running passes.
    pub shopping: i64,
    /// Claims in the last 60 s.
    pub claimed_last_minute: i64,
    /// Available stock; `None` while unknown.
    pub stock: Option<Stock>,
    /// The share of the rate that the brake lets pass.
    pub brake: Braking,
    /// The lottery of the lobby.
    pub lottery: Lottery,
}

/// The changes of one step. Both have the same `seq`.
#[derive(Debug, Clone)]
pub struct Step {
    /// The move; may be empty.
    pub moved: Move,
    /// The shared snapshot.
    pub snapshot: Snapshot,
}

/// One sale's line, as its release loop knows it.
#[derive(Debug, Clone, Default)]
pub struct Release {
    order: Arc<Order>,
    /// Places neither called, left nor given up.
    waiting: Bits,
    joined: i64,
    cursor: i64,
    left: i64,
    calls: Calls,
    patience: Patience,
    presence: Presence,
    shows: Shows,
    control: Control,
    forecast: Forecast,
    appetite: Appetite,
    published: Option<Snapshot>,
}

impl Release {
    /// Resets the line to its stored state: `joined` numbers, and the last snapshot. Learned
    /// presence and pace stay. [`recall`](Self::recall) replays the moves.
    ///
    /// `order` is the lottery's, or that of joining while nothing was drawn.
    pub fn remember(&mut self, order: Arc<Order>, joined: i64, published: Option<Snapshot>) {
        self.order = order;
        self.waiting = Bits::default();
        self.waiting.fill(1, joined);
        self.joined = joined;
        self.cursor = published.as_ref().map_or(0, |published| published.cursor.0);
        self.left = 0;
        self.calls = Calls::default();
        self.shows.forget_called();
        if let Some(published) = &published {
            let wait = |people| published.wait(Some(people), published.at);
            let (steps, last) = (published.ahead.steps(), published.ahead.last);
            self.patience.sample(published.at, &steps, last, wait);
        }
        self.published = published;
    }

    /// Replays a move of the past; in order, each once. The hazard rate and the no-show rate are
    /// estimated from it as they were by the node that made the calls.
    pub fn recall(&mut self, moved: &Move) {
        let done = || moved.missed.iter().chain(&moved.claimed).chain(&moved.over);
        // Of calls that are not among the moves, only the no-shows are known.
        let is_checkpoint = done().any(|place| self.waiting.has(place.0));
        for place in moved.called.iter().flat_map(|run| run.places()) {
            self.waiting.remove(place.0);
        }
        self.calls.add(moved.at, &moved.called);
        self.shows.called(moved.at, people(&moved.called));
        for number in &moved.left {
            self.leave(*number);
        }
        for place in moved.claimed.iter().chain(&moved.over) {
            self.claim(*place);
        }
        for place in &moved.missed {
            self.waiting.remove(place.0);
            self.calls.remove(*place);
        }
        if is_checkpoint {
            self.shows.resume(moved.at);
        } else if let Some(published) = &self.published {
            let per_second = f64::from(published.rate_per_minute) / 60.0;
            self.shows.learn(
                moved.at,
                per_second.max(0.1),
                published.claim_window_seconds,
            );
        }
    }

    /// The lottery was drawn: numbers become places.
    pub fn draw(&mut self, order: Arc<Order>) {
        self.waiting = self
            .waiting
            .moved(|number| order.place_of(Number(number)).0);
        self.presence.reorder(&order);
        self.order = order;
    }

    /// Number of permuted numbers, as far as known.
    #[must_use]
    pub fn lobby(&self) -> i64 {
        self.order.lobby()
    }

    /// Records presence in `slot`: a Redis bitmap of the numbers of `part`. While nothing is
    /// recorded, nobody becomes absent.
    pub fn see(&mut self, slot: i64, part: i64, bitmap: &[u8]) {
        self.presence.see(slot, part, bitmap, &self.order);
    }

    /// The parts of [`SEEN_PART`] numbers in which somebody waits, or may.
    #[must_use]
    pub fn seen_parts(&self) -> RangeInclusive<i64> {
        let first = self.waiting.first().unwrap_or(self.joined);
        // The lottery's places are of all its numbers.
        let first = if first > self.order.lobby() { first } else { 0 };
        first / SEEN_PART..=self.joined / SEEN_PART
    }

    /// Counts everybody as seen at `now`: nobody knows better.
    pub fn see_everybody(&mut self, now: DateTime<Utc>) {
        self.presence.begin(seen_slot(now));
        self.presence.fill(1, self.joined);
    }

    /// Returns whether presence is empty.
    #[must_use]
    pub fn has_seen_nobody(&self) -> bool {
        self.presence.is_empty()
    }

    /// Returns the outcomes of predicted waits since the last call.
    pub fn take_outcomes(&mut self) -> Outcomes {
        self.forecast.take_outcomes()
    }

    /// Returns the last snapshot.
    #[must_use]
    pub fn published(&self) -> Option<&Snapshot> {
        self.published.as_ref()
    }

    /// Returns whether a next step may have an effect without new inputs.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let is_waited_for = self.published.as_ref().is_none_or(|published| {
            published.waiting > 0
                && !matches!(published.state, SaleState::Closed | SaleState::Scheduled)
        });
        is_waited_for || !self.calls.is_empty()
    }

    /// Returns whether somebody may still return to be called, so that presence must be read, at a
    /// slower pace.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        let is_over = |published: &Snapshot| published.state == SaleState::Closed;
        !self.published.as_ref().is_some_and(is_over) && !self.waiting.is_empty()
    }

    /// Executes one step. `None` when nothing changed that must be published.
    pub fn step(&mut self, facts: &Facts<'_>) -> Option<Step> {
        let now = facts.now;
        self.join(now, facts.joined);
        for number in facts.left {
            self.leave(*number);
        }
        let came = self.come(facts);
        let per_second = rate(facts);
        // A client whose next poll is in half a minute is not late before that.
        let window = TimeDelta::seconds(facts.sale.claim_window_seconds.into());
        let window = window.max(self.patience.hears_within());
        let seconds = u32::try_from(window.num_seconds()).unwrap_or(u32::MAX);
        self.shows.learn(now, per_second.max(0.1), seconds);
        let missed = self.calls.miss(now, window);

        let room = self.room(facts);
        let limits = Limits {
            per_second,
            expected: self.shows.expected(),
            ready: float(self.calls.ready()),
            shows: self.shows.rate(),
            delay_seconds: self.shows.delay_seconds(),
            room: room.by_cap.min(room.by_stock.unwrap_or(f64::INFINITY)),
        };
        let granted = self.control.grant(now, came, &limits);
        let (called, more) = self.call(now, granted);
        self.control.spend(people(&called), limits.shows, more);
        self.forecast.called(now, people(&called));
        let progress = Progress {
            waiting: &self.waiting,
            cursor: self.cursor,
            calls: &self.calls,
        };
        self.forecast.learn(now, &progress);

        let moved = Move {
            seq: 0,
            at: now,
            called,
            missed,
            claimed: facts.claimed.to_vec(),
            over: facts.over.to_vec(),
            left: facts.left.to_vec(),
        };
        let underway = limits.expected + limits.ready;
        let calls_per_second = self.calls_per_second(&limits, limits.room - underway < 1.0);
        let served = room
            .by_stock
            .map(|room| (room - underway).max(0.0) / limits.shows);
        self.publish(facts, moved, calls_per_second, served)
    }

    fn join(&mut self, now: DateTime<Utc>, joined: i64) {
        if joined > self.joined {
            self.waiting.fill(self.joined + 1, joined);
            // A joiner is present before any bitmap shows it, which says nothing of others.
            if self.presence.has_no_slot() {
                self.presence.begin(seen_slot(now));
            }
            self.presence.fill(self.joined + 1, joined);
            self.joined = joined;
        }
    }

    fn leave(&mut self, number: Number) {
        let place = self.order.place_of(number);
        self.left += 1;
        self.waiting.remove(place.0);
        if let Some(call) = self.calls.remove(place).filter(|call| !call.has_come) {
            self.shows.left(call.at);
        }
    }

    /// Returns whether it is the first arrival.
    fn claim(&mut self, place: Place) -> bool {
        self.waiting.remove(place.0);
        let call = self.calls.remove(place).filter(|call| !call.has_come);
        if let Some(call) = call {
            self.shows.came(call.at);
        }
        call.is_some()
    }

    /// Number of arrivals at the gate since the last step.
    fn come(&mut self, facts: &Facts<'_>) -> u32 {
        let mut came = 0;
        for place in facts.claimed {
            came += u32::from(self.claim(*place));
        }
        for at in self.calls.stand_ready(facts.ready) {
            self.shows.came(at);
            came += 1;
        }
        self.appetite.claimed(facts.claimed.len());
        came
    }

    fn room(&mut self, facts: &Facts<'_>) -> Room {
        let by_cap = (i64::from(facts.sale.shopper_cap) - facts.shopping).max(0);
        let by_stock = facts
            .stock
            .map(|stock| self.appetite.room(stock, facts.shopping));
        Room {
            by_cap: f64::from(u32::try_from(by_cap).expect("at most the cap")),
            by_stock,
        }
    }

    /// Calls the lowest present places, as runs; and whether more wait.
    fn call(&mut self, now: DateTime<Utc>, most: u32) -> (Vec<Run>, bool) {
        let depth = self.patience.front();
        let mut runs: Vec<Run> = Vec::new();
        let mut left = most;
        for at in 0..self.waiting.words() {
            let waiting = self.waiting.word(at);
            if waiting == 0 {
                continue;
            }
            for place in members(at, waiting & self.presence.word(at, depth)) {
                if left == 0 {
                    self.note_called(now, &runs);
                    return (runs, true);
                }
                left -= 1;
                match runs.last_mut().filter(|run| run.last.0 + 1 == place) {
                    Some(run) => run.last = Place(place),
                    None => runs.push(Run {
                        first: Place(place),
                        last: Place(place),
                    }),
                }
            }
        }
        self.note_called(now, &runs);
        (runs, false)
    }

    fn note_called(&mut self, now: DateTime<Utc>, runs: &[Run]) {
        for place in runs.iter().flat_map(|run| run.places()) {
            self.waiting.remove(place.0);
        }
        self.calls.add(now, runs);
        self.shows.called(now, people(runs));
        let last = runs.last().map_or(0, |run| run.last.0);
        self.cursor = self.cursor.max(last);
    }

    /// The pace of calls: the rate, or where cap or stock are the limit, as measured.
    fn calls_per_second(&self, limits: &Limits, is_full: bool) -> f64 {
        let by_rate = limits.per_second / limits.shows;
        match self.forecast.measured().filter(|_| is_full) {
            Some(measured) => measured.min(by_rate),
            None => by_rate,
        }
    }
}

/// Room for people who are called or on their way, besides shoppers.
#[derive(Debug, Clone, Copy)]
struct Room {
    by_cap: f64,
    /// `None` while the stock is not known.
    by_stock: Option<f64>,
}

/// People who may come, a second.
fn rate(facts: &Facts<'_>) -> f64 {
    let is_something_left = facts.stock.is_none_or(|stock| stock.available > 0);
    if facts.state != SaleState::Open || !is_something_left {
        return 0.0;
    }
    f64::from(facts.sale.rate_per_minute) / 60.0 * f64::from(facts.brake.percent) / 100.0
}

fn people(runs: &[Run]) -> u32 {
    let people: i64 = runs.iter().map(|run| run.last.0 - run.first.0 + 1).sum();
    u32::try_from(people).unwrap_or(u32::MAX)
}

fn float(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod crowd;
#[cfg(test)]
mod polls;
#[cfg(test)]
mod tests;
