//! Admission control of claims: at most the rate in any 60 s (a sliding window), at most the cap of
//! concurrent shoppers, and the rest first come, first served (I9).
//!
//! A pure decision over admission's state in PostgreSQL, so that a simulation follows the same
//! rules.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::Place;

/// Width of the sliding window, in milliseconds.
const WINDOW_MILLIS: i64 = 60_000;
/// Width of one bucket of claims, in milliseconds.
const BUCKET_MILLIS: i64 = 250;
/// Longest retry delay for the ready line.
pub const MAX_WAIT: Duration = Duration::from_secs(5);
/// Shortest retry delay, used when it is unknown when a slot will be free.
const MIN_WAIT: Duration = Duration::from_secs(1);
/// A claimant that has not retried for this long loses the turn.
pub const RETRY_TIMEOUT: TimeDelta = TimeDelta::seconds(8);

/// The bucket that counts claims made at `at`.
#[must_use]
pub fn bucket(at: DateTime<Utc>) -> i64 {
    at.timestamp_millis().div_euclid(BUCKET_MILLIS)
}

/// The oldest bucket with a claim that may be less than 60 s old at `now`.
#[must_use]
pub fn oldest_bucket(now: DateTime<Utc>) -> i64 {
    (now.timestamp_millis() - WINDOW_MILLIS).div_euclid(BUCKET_MILLIS)
}

/// Claims of the last minute, by bucket. The oldest bucket counts as a whole, so up to a quarter
/// of a second more than a minute is counted and never less.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    /// Bucket and claims, oldest first.
    counts: Vec<(i64, u32)>,
}

impl Window {
    /// From buckets and their claims, in any order.
    #[must_use]
    pub fn new(mut counts: Vec<(i64, u32)>) -> Self {
        counts.sort_unstable();
        Self { counts }
    }

    /// Counts `claims` more, made at `at`.
    pub fn add(&mut self, at: DateTime<Utc>, claims: u32) {
        let bucket = bucket(at);
        let found = self.counts.binary_search_by_key(&bucket, |count| count.0);
        match found {
            Ok(index) => self.counts[index].1 += claims,
            Err(index) => self.counts.insert(index, (bucket, claims)),
        }
    }

    /// Drops buckets that are older than a minute at `now`.
    pub fn forget_before(&mut self, now: DateTime<Utc>) {
        self.counts.retain(|count| count.0 >= oldest_bucket(now));
    }

    /// Claims in the minute that ends at `now`.
    #[must_use]
    pub fn claims(&self, now: DateTime<Utc>) -> u32 {
        self.in_minute(now).map(|(_, claims)| claims).sum()
    }

    /// Time until `claims` of those counted at `now` have left the window; `None` when there are
    /// fewer.
    fn until_gone(&self, now: DateTime<Utc>, claims: u32) -> Option<Duration> {
        let mut gone = 0;
        let last = self.in_minute(now).find(|(_, claims_of_bucket)| {
            gone += claims_of_bucket;
            gone >= claims
        })?;
        let millis = (last.0 + 1) * BUCKET_MILLIS + WINDOW_MILLIS - now.timestamp_millis();
        Some(Duration::from_millis(u64::try_from(millis).unwrap_or(0)))
    }

    fn in_minute(&self, now: DateTime<Utc>) -> impl Iterator<Item = (i64, u32)> {
        let oldest = oldest_bucket(now);
        self.counts
            .iter()
            .copied()
            .filter(move |count| count.0 >= oldest)
    }
}

/// A place in the ready line: it arrived when there was no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The place.
    pub place: Place,
    /// Time of its first claim.
    pub since: DateTime<Utc>,
    /// Time of its latest claim.
    pub tried_at: DateTime<Utc>,
}

impl Ready {
    /// Returns whether its turn is reserved at `now`.
    #[must_use]
    pub fn is_reserved(&self, now: DateTime<Utc>) -> bool {
        now - self.tried_at < RETRY_TIMEOUT
    }
}

/// The inputs of one decision of a sale's gate.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// Time of the decision.
    pub now: DateTime<Utc>,
    /// Most claims in any 60 s.
    pub rate_per_minute: u32,
    /// Most running passes.
    pub shopper_cap: u32,
    /// Claims made before.
    pub window: &'a Window,
    /// Running passes.
    pub shopping: u32,
    /// The ready line, in any order.
    pub ready: &'a [Ready],
}

/// The decision on a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// A pass is issued.
    Pass,
    /// There is no slot; retry after this long, at most [`MAX_WAIT`].
    Wait(Duration),
}

impl Gate<'_> {
    /// Decides for `claimants`, who are distinct and in order of arrival. A slot that falls to an
    /// absent member of the ready line is reserved for them.
    #[must_use]
    pub fn decide(&self, claimants: &[Place]) -> Vec<Turn> {
        let slots = self.slots();
        let asking: HashMap<Place, usize> =
            claimants.iter().enumerate().map(|(n, p)| (*p, n)).collect();
        let mut turns = vec![Turn::Pass; claimants.len()];
        let line = self.line(claimants);
        let first_without = usize::try_from(slots).unwrap_or(usize::MAX);
        for (behind, place) in line.iter().skip(first_without).enumerate() {
            if let Some(index) = asking.get(place) {
                let behind = u32::try_from(behind).unwrap_or(u32::MAX - 1);
                turns[*index] = Turn::Wait(self.wait(slots, behind));
            }
        }
        turns
    }

    /// Number of passes that may be issued now.
    #[must_use]
    pub fn slots(&self) -> u32 {
        let by_rate = self
            .rate_per_minute
            .saturating_sub(self.window.claims(self.now));
        by_rate.min(self.shopper_cap.saturating_sub(self.shopping))
    }

    /// Reserved places of the ready line, then new claimants, in order.
    fn line(&self, claimants: &[Place]) -> Vec<Place> {
        let mut live: Vec<&Ready> = self.ready.iter().collect();
        live.retain(|ready| ready.is_reserved(self.now));
        live.sort_unstable_by_key(|ready| (ready.since, ready.place));
        let mut line: Vec<Place> = live.into_iter().map(|ready| ready.place).collect();
        let in_line: HashSet<Place> = line.iter().copied().collect();
        line.extend(claimants.iter().filter(|place| !in_line.contains(place)));
        line
    }

    /// Retry delay with `behind` others ahead, once `slots` are taken: exact for the rate, and
    /// about half of the expected time for the cap, since a slot may be freed any time.
    fn wait(&self, slots: u32, behind: u32) -> Duration {
        let claims = self.window.claims(self.now);
        let needed = |used: u32, most: u32| {
            used.saturating_add(slots)
                .saturating_add(behind + 1)
                .saturating_sub(most)
        };
        let by_rate = match needed(claims, self.rate_per_minute) {
            0 => Duration::ZERO,
            claims => self.window.until_gone(self.now, claims).unwrap_or(MAX_WAIT),
        };
        let by_cap = match needed(self.shopping, self.shopper_cap) {
            0 => Duration::ZERO,
            ends => {
                let half = Duration::from_secs(30).saturating_mul(ends) / claims.max(1);
                half.max(MIN_WAIT)
            }
        };
        by_rate.max(by_cap).min(MAX_WAIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::milliseconds(1_000_000_000 + millis)
    }

    fn places(numbers: impl IntoIterator<Item = i64>) -> Vec<Place> {
        numbers.into_iter().map(Place).collect()
    }

    /// A gate with what it remembers, on a clock of its own.
    struct Memory {
        now: i64,
        rate: u32,
        cap: u32,
        window: Window,
        /// Place and when its pass ends.
        running: Vec<(Place, i64)>,
        ready: HashMap<Place, Ready>,
        passes: Vec<(i64, Place)>,
    }

    impl Memory {
        fn new(rate: u32, cap: u32) -> Self {
            Self {
                now: 0,
                rate,
                cap,
                window: Window::default(),
                running: Vec::new(),
                ready: HashMap::new(),
                passes: Vec::new(),
            }
        }

        fn step(&mut self, claimants: &[Place], lasts: i64) -> Vec<Turn> {
            let now = at(self.now);
            self.running.retain(|running| running.1 > self.now);
            self.ready.retain(|_, ready| ready.is_reserved(now));
            let ready: Vec<Ready> = self.ready.values().copied().collect();
            let gate = Gate {
                now,
                rate_per_minute: self.rate,
                shopper_cap: self.cap,
                window: &self.window,
                shopping: u32::try_from(self.running.len()).unwrap(),
                ready: &ready,
            };
            let turns = gate.decide(claimants);
            for (place, turn) in claimants.iter().zip(&turns) {
                if *turn == Turn::Pass {
                    self.window.add(now, 1);
                    self.running.push((*place, self.now + lasts));
                    self.ready.remove(place);
                    self.passes.push((self.now, *place));
                } else {
                    let since = self.ready.get(place).map_or(now, |ready| ready.since);
                    let (place, tried_at) = (*place, now);
                    let ready = Ready {
                        place,
                        since,
                        tried_at,
                    };
                    self.ready.insert(place, ready);
                }
            }
            turns
        }
    }

    #[test]
    fn the_first_who_came_is_the_first_who_passes() {
        let mut gate = Memory::new(1_000, 2);
        let turns = gate.step(&places([30, 10, 20]), 1_000);
        assert_eq!(turns[..2], [Turn::Pass, Turn::Pass]);
        assert!(matches!(turns[2], Turn::Wait(_)));
        gate.now = 1_000;
        // Two slots: one is reserved for place 20, which is absent.
        let turns = gate.step(&places([5, 6]), 1_000);
        assert_eq!(turns[0], Turn::Pass);
        assert!(matches!(turns[1], Turn::Wait(_)));
        assert_eq!(gate.step(&places([20]), 1_000), [Turn::Pass]);
    }

    #[test]
    fn a_claimant_that_does_not_retry_loses_the_turn() {
        let mut gate = Memory::new(1_000, 1);
        gate.step(&places([1, 2]), 1_000);
        gate.now = 7_999;
        assert!(matches!(gate.step(&places([3]), 1_000)[0], Turn::Wait(_)));
        gate.now = 8_000;
        assert_eq!(gate.step(&places([3]), 1_000), [Turn::Pass]);
    }

    #[test]
    fn a_wait_for_the_cap_is_half_of_the_time_in_which_as_many_came() {
        let mut gate = Memory::new(1_000, 30);
        gate.step(&places(1..=30), 60_000);
        // Thirty passes a minute: one ends every two seconds.
        let turns = gate.step(&places([31, 32, 33]), 60_000);
        let seconds = |n| Turn::Wait(Duration::from_secs(n));
        assert_eq!(turns, [seconds(1), seconds(2), seconds(3)]);
    }

    #[test]
    fn shoppers_leave_and_as_many_come_in() {
        let mut gate = Memory::new(1_000, 2);
        let mut entered = Vec::new();
        for round in 0..4 {
            gate.now = round * 10_000;
            let before = gate.passes.len();
            gate.step(&places(round * 10..round * 10 + 9), 10_000);
            entered.push(gate.passes.len() - before);
        }
        assert_eq!(entered, [2, 2, 2, 2]);
    }

    #[test]
    fn a_wait_for_the_rate_ends_at_the_moment_there_is_room() {
        let mut gate = Memory::new(1, 1_000);
        gate.step(&places([1]), 100);
        gate.now = 57_000;
        let Turn::Wait(wait) = gate.step(&places([2]), 100)[0] else {
            panic!("the rate is used up")
        };
        gate.now += i64::try_from(wait.as_millis()).unwrap() - 1;
        assert!(matches!(gate.step(&places([2]), 100)[0], Turn::Wait(_)));
        gate.now += 1;
        assert_eq!(gate.step(&places([2]), 100), [Turn::Pass]);
    }

    #[test]
    fn a_pause_of_claims_banks_nothing() {
        let mut gate = Memory::new(60, 1_000);
        gate.now = 3_600_000;
        gate.step(&places(1..=500), 100);
        assert_eq!(gate.passes.len(), 60);
    }

    #[test]
    fn a_gate_that_lets_nobody_in_makes_all_retry() {
        let mut gate = Memory::new(0, 0);
        let longest = Turn::Wait(MAX_WAIT);
        assert_eq!(gate.step(&places([1, 2]), 100), [longest, longest]);
    }

    #[test]
    fn a_crowd_that_retries_when_due_stays_within_the_rate() {
        let mut gate = Memory::new(600, 100_000);
        let mut due: Vec<(i64, Place)> = (1..=1_500).map(|n| (n, Place(n))).collect();
        while gate.now < 120_000 {
            let (here, later) = due.into_iter().partition(|(when, _)| *when <= gate.now);
            due = later;
            let here: Vec<(i64, Place)> = here;
            let here: Vec<Place> = here.into_iter().map(|(_, place)| place).collect();
            for (place, turn) in here.iter().zip(gate.step(&here, 1_000)) {
                if let Turn::Wait(wait) = turn {
                    // Retry-After is in whole seconds.
                    let millis = i64::try_from(wait.as_millis()).unwrap();
                    due.push((gate.now + (millis + 999) / 1_000 * 1_000, *place));
                }
            }
            gate.now += 100;
        }
        // A minute's worth goes at once, and another in the minute that follows.
        let passes = gate.passes.len();
        assert!((1_140..=1_200).contains(&passes), "{passes} of 1200");
    }

    proptest! {
        #[test]
        fn rate_and_cap_hold_and_turns_are_in_order(
            rate in 1_u32..40,
            cap in 1_u32..30,
            steps in prop::collection::vec(
                (0_i64..9_000, prop::collection::btree_set(1_i64..60, 0..20), 1_i64..90_000),
                1..80,
            ),
        ) {
            let mut gate = Memory::new(rate, cap);
            let mut had = HashSet::new();
            for (later, asking, lasts) in steps {
                gate.now += later;
                let claimants: Vec<Place> = asking
                    .into_iter()
                    .map(Place)
                    .filter(|place| !had.contains(place))
                    .collect();
                let now = at(gate.now);
                let order = |place: &Place| {
                    let live = gate.ready.get(place).filter(|ready| ready.is_reserved(now));
                    live.map(|ready| (ready.since, ready.place))
                };
                let before: Vec<_> = claimants.iter().map(order).collect();
                let turns = gate.step(&claimants, lasts);
                for (index, turn) in turns.iter().enumerate() {
                    if *turn == Turn::Pass {
                        prop_assert!(had.insert(claimants[index]));
                        continue;
                    }
                    // Nobody who comes after it passed.
                    for (other, turn) in turns.iter().enumerate() {
                        let is_later = match (before[index], before[other]) {
                            (Some(own), Some(theirs)) => theirs > own,
                            (Some(_), None) => true,
                            (None, Some(_)) => false,
                            (None, None) => other > index,
                        };
                        prop_assert!(!is_later || *turn != Turn::Pass);
                    }
                }
                prop_assert!(gate.running.len() <= cap as usize);
            }
            for (index, (first, _)) in gate.passes.iter().enumerate() {
                let minute = gate.passes[index..].iter().filter(|(when, _)| when - first < 60_000);
                prop_assert!(minute.count() <= rate as usize);
            }
        }
    }
}
