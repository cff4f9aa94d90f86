//! The core of the release loop: feedback control of a line, which decides the places to call, the
//! no-shows and the snapshot. Without I/O and without a clock of its own, so that a simulation
//! follows the same rules as the leader.
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

mod absence;
mod basket;
mod bits;
mod brake;
mod calls;
mod control;
mod forecast;
mod presence;
mod show_rate;
mod view;

use std::ops::RangeInclusive;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};

use crate::line::{Move, Run};
use crate::lottery::Permutation;
use crate::queue::{BrakeState, Lottery, SEEN_PART, Snapshot, seen_slot};
use crate::sale::{SaleSettings, SaleState, Stock};
use crate::{Number, Place};

use absence::AbsenceTimeouts;
use basket::BasketSize;
use bits::{BitSet, members};
use calls::Calls;
use control::{Limits, RateController};
use forecast::{Forecast, Progress};
use presence::Presence;
use show_rate::ShowRate;

pub use brake::{Brake, Load};
pub use control::TICK;
pub use forecast::Outcomes;

/// The inputs of one step of a sale's release loop.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Time of the step.
    pub now: DateTime<Utc>,
    /// The sale's settings.
    pub sale: &'a SaleSettings,
    /// State of the sale.
    pub state: SaleState,
    /// Highest number issued.
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
    pub brake: BrakeState,
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

/// The release loop's model of one sale's line.
#[derive(Debug, Clone, Default)]
pub struct Release {
    order: Arc<Permutation>,
    /// Places neither called, left nor given up.
    waiting: BitSet,
    joined: i64,
    cursor: i64,
    left: i64,
    calls: Calls,
    timeouts: AbsenceTimeouts,
    presence: Presence,
    show_rate: ShowRate,
    controller: RateController,
    forecast: Forecast,
    basket: BasketSize,
    published: Option<Snapshot>,
}

impl Release {
    /// Resets the line to its stored state: `joined` numbers, and the last snapshot. Learned
    /// presence and pace stay. [`replay`](Self::replay) applies the moves.
    ///
    /// `order` is the lottery's, or that of joining while nothing was drawn.
    pub fn reset(&mut self, order: Arc<Permutation>, joined: i64, published: Option<Snapshot>) {
        self.order = order;
        self.waiting = BitSet::default();
        self.waiting.insert_range(1, joined);
        self.joined = joined;
        self.cursor = published.as_ref().map_or(0, |published| published.cursor.0);
        self.left = 0;
        self.calls = Calls::default();
        self.show_rate.clear_cohorts();
        if let Some(published) = &published {
            let wait = |people| published.wait(Some(people), published.at);
            let (steps, last) = (published.ahead.steps(), published.ahead.last);
            self.timeouts.sample(published.at, &steps, last, wait);
        }
        self.published = published;
    }

    /// Replays a move of the past; in order, each once. The hazard rate and the no-show rate are
    /// estimated from it as they were by the node that made the calls.
    pub fn replay(&mut self, moved: &Move) {
        let done = || moved.missed.iter().chain(&moved.claimed).chain(&moved.over);
        // Of calls that are not among the moves, only the no-shows are known.
        let is_checkpoint = done().any(|place| self.waiting.contains(place.0));
        for place in moved.called.iter().flat_map(|run| run.places()) {
            self.waiting.remove(place.0);
        }
        self.calls.add(moved.at, &moved.called);
        self.show_rate.called(moved.at, people(&moved.called));
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
            self.show_rate.resume(moved.at);
        } else if let Some(published) = &self.published {
            let per_second = f64::from(published.rate_per_minute) / 60.0;
            self.show_rate.learn(
                moved.at,
                per_second.max(0.1),
                published.claim_window_seconds,
            );
        }
    }

    /// Applies the draw of the lottery: numbers become places.
    pub fn draw(&mut self, order: Arc<Permutation>) {
        self.waiting = self.waiting.map(|number| order.place_of(Number(number)).0);
        self.presence.reorder(&order);
        self.order = order;
    }

    /// Number of permuted numbers; 0 before the draw.
    #[must_use]
    pub fn lobby(&self) -> i64 {
        self.order.lobby()
    }

    /// Records presence in `slot`: a Redis bitmap of the numbers of `part`. While nothing is
    /// recorded, nobody becomes absent.
    pub fn record_presence(&mut self, slot: i64, part: i64, bitmap: &[u8]) {
        self.presence.record(slot, part, bitmap, &self.order);
    }

    /// The parts of [`SEEN_PART`] numbers in which somebody waits, or may.
    #[must_use]
    pub fn presence_parts(&self) -> RangeInclusive<i64> {
        let first = self.waiting.first().unwrap_or(self.joined);
        // The lottery's places are of all its numbers.
        let first = if first > self.order.lobby() { first } else { 0 };
        first / SEEN_PART..=self.joined / SEEN_PART
    }

    /// Records everybody as present at `now`, for when presence is unknown.
    pub fn mark_all_present(&mut self, now: DateTime<Utc>) {
        self.presence.begin(seen_slot(now));
        self.presence.mark(1, self.joined);
    }

    /// Returns whether presence is empty.
    #[must_use]
    pub fn has_no_presence(&self) -> bool {
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

    /// Returns whether a waiting place may still be called, so that presence must be read, at a
    /// slower pace.
    #[must_use]
    pub fn has_waiters(&self) -> bool {
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
        let came = self.record_arrivals(facts);
        let per_second = rate(facts);
        // A client that polls again in half a minute is not late before that.
        let window = TimeDelta::seconds(facts.sale.claim_window_seconds.into());
        let window = window.max(self.timeouts.notice_delay());
        let seconds = u32::try_from(window.num_seconds()).unwrap_or(u32::MAX);
        self.show_rate.learn(now, per_second.max(0.1), seconds);
        let missed = self.calls.expire(now, window);

        let headroom = self.headroom(facts);
        let limits = Limits {
            per_second,
            expected: self.show_rate.expected(),
            ready: float(self.calls.ready()),
            show_rate: self.show_rate.rate(),
            delay_seconds: self.show_rate.delay_seconds(),
            headroom: headroom
                .by_cap
                .min(headroom.by_stock.unwrap_or(f64::INFINITY)),
        };
        let granted = self.controller.grant(now, came, &limits);
        let (called, more) = self.call(now, granted);
        self.controller
            .spend(people(&called), limits.show_rate, more);
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
        let calls_per_second = self.calls_per_second(&limits, limits.headroom - underway < 1.0);
        let served = headroom
            .by_stock
            .map(|headroom| (headroom - underway).max(0.0) / limits.show_rate);
        self.publish(facts, moved, calls_per_second, served)
    }

    fn join(&mut self, now: DateTime<Utc>, joined: i64) {
        if joined > self.joined {
            self.waiting.insert_range(self.joined + 1, joined);
            // A joiner is present before any bitmap shows it, which says nothing of others.
            if self.presence.has_no_slot() {
                self.presence.begin(seen_slot(now));
            }
            self.presence.mark(self.joined + 1, joined);
            self.joined = joined;
        }
    }

    fn leave(&mut self, number: Number) {
        let place = self.order.place_of(number);
        self.left += 1;
        self.waiting.remove(place.0);
        if let Some(call) = self.calls.remove(place).filter(|call| !call.has_arrived) {
            self.show_rate.left(call.at);
        }
    }

    /// Returns whether it is the first arrival.
    fn claim(&mut self, place: Place) -> bool {
        self.waiting.remove(place.0);
        let call = self.calls.remove(place).filter(|call| !call.has_arrived);
        if let Some(call) = call {
            self.show_rate.came(call.at);
        }
        call.is_some()
    }

    /// Number of arrivals at the gate since the last step.
    fn record_arrivals(&mut self, facts: &Facts<'_>) -> u32 {
        let mut came = 0;
        for place in facts.claimed {
            came += u32::from(self.claim(*place));
        }
        for at in self.calls.set_ready(facts.ready) {
            self.show_rate.came(at);
            came += 1;
        }
        self.basket.add_claims(facts.claimed.len());
        came
    }

    fn headroom(&mut self, facts: &Facts<'_>) -> Headroom {
        let by_cap = (i64::from(facts.sale.shopper_cap) - facts.shopping).max(0);
        let by_stock = facts
            .stock
            .map(|stock| self.basket.headroom(stock, facts.shopping));
        Headroom {
            by_cap: f64::from(u32::try_from(by_cap).expect("at most the cap")),
            by_stock,
        }
    }

    /// Calls the lowest present places, as runs; and whether more wait.
    fn call(&mut self, now: DateTime<Utc>, most: u32) -> (Vec<Run>, bool) {
        let depth = self.timeouts.front();
        let mut runs: Vec<Run> = Vec::new();
        let mut left = most;
        for at in 0..self.waiting.words() {
            let waiting = self.waiting.word(at);
            if waiting == 0 {
                continue;
            }
            for place in members(at, waiting & self.presence.word(at, depth)) {
                if left == 0 {
                    self.record_calls(now, &runs);
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
        self.record_calls(now, &runs);
        (runs, false)
    }

    fn record_calls(&mut self, now: DateTime<Utc>, runs: &[Run]) {
        for place in runs.iter().flat_map(|run| run.places()) {
            self.waiting.remove(place.0);
        }
        self.calls.add(now, runs);
        self.show_rate.called(now, people(runs));
        let last = runs.last().map_or(0, |run| run.last.0);
        self.cursor = self.cursor.max(last);
    }

    /// Calls a second: by the rate, or as measured where cap or stock are the limit.
    fn calls_per_second(&self, limits: &Limits, is_full: bool) -> f64 {
        let by_rate = limits.per_second / limits.show_rate;
        match self.forecast.measured().filter(|_| is_full) {
            Some(measured) => measured.min(by_rate),
            None => by_rate,
        }
    }
}

/// Headroom for people who are called or on their way, besides shoppers.
#[derive(Debug, Clone, Copy)]
struct Headroom {
    by_cap: f64,
    /// `None` while the stock is not known.
    by_stock: Option<f64>,
}

/// The effective rate: people who may come, a second.
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
