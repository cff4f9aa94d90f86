//! Simulation of people who poll at their published intervals, on a virtual clock: the published
//! number of people ahead is accurate.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::tests::{at, facts, sale};
use super::*;
use crate::queue::{PlaceState, poll_after_ms};

/// Members of the crowd that closed the tab, from the beginning.
#[derive(Debug, Clone, Copy)]
enum Absent {
    Nobody,
    /// One in so many.
    OneIn(i64),
    /// All of every second run of so many places.
    Runs(i64),
    /// The first so many of a hundred.
    Front(i64),
}

impl Absent {
    fn has(self, place: i64, people: i64) -> bool {
        match self {
            Self::Nobody => false,
            Self::OneIn(n) => place % n == 0,
            Self::Runs(n) => place / n % 2 == 1,
            Self::Front(percent) => place * 100 < people * percent,
        }
    }
}

/// A client that polls.
#[derive(Debug, Clone, Copy)]
struct Person {
    asks_at: i64,
    /// The last response to each.
    shown: i64,
}

struct Polls {
    release: Release,
    sale: SaleSettings,
    people: Vec<Person>,
    absent: Absent,
    called: Vec<bool>,
    /// Presence in the current slot and the one before.
    seen: VecDeque<(i64, Vec<u8>)>,
    random: u64,
}

/// Time before the opening at which the absent close their tabs.
const BEFORE_SECONDS: i64 = 300;

impl Polls {
    fn new(rate_per_minute: u32, people: i64, absent: Absent) -> Self {
        let mut sale = sale(rate_per_minute);
        sale.opens_at = at(0);
        let asks_at = -BEFORE_SECONDS * 1_000;
        let person = Person {
            asks_at,
            shown: i64::MAX / 2,
        };
        let all = usize::try_from(people).unwrap() + 1;
        Self {
            release: Release::default(),
            sale,
            people: vec![person; all],
            absent,
            called: vec![false; all],
            seen: VecDeque::new(),
            random: 7,
        }
    }

    fn joined(&self) -> i64 {
        i64::try_from(self.people.len()).unwrap() - 1
    }

    fn jitter(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005) + 1;
        f64::from(u32::try_from(self.random >> 33).unwrap()) / f64::from(1_u32 << 31)
    }

    fn is_here(&self, place: i64) -> bool {
        !self.absent.has(place, self.joined())
    }

    /// Advances by a quarter of a second: clients that are due poll, and the response is checked.
    fn tick(&mut self, millis: i64) {
        let slot = seen_slot(at(millis));
        if self.seen.back().is_none_or(|newest| newest.0 < slot) {
            let bitmap = vec![0; self.people.len() / 8 + 1];
            self.seen.push_back((slot, bitmap));
        }
        while self.seen.len() > 2 {
            self.seen.pop_front();
        }
        // Nodes flush presence every two seconds, and the leader reads it every second.
        if millis % 3_000 == 0 {
            for (slot, bitmap) in &self.seen {
                self.release.record_presence(*slot, 0, bitmap);
            }
        }
        let facts = facts(&self.sale, millis, self.joined());
        if let Some(step) = self.release.step(&facts) {
            for place in step.moved.called.iter().flat_map(|run| run.places()) {
                self.called[usize::try_from(place.0).unwrap()] = true;
            }
        }
        self.ask(millis);
    }

    fn ask(&mut self, millis: i64) {
        let published = self.release.published().unwrap().clone();
        let steps = published.ahead.steps();
        let mut truth = 0;
        for place in 1..=self.joined() {
            let index = usize::try_from(place).unwrap();
            if self.called[index] || !self.is_here(place) {
                continue;
            }
            let before = truth;
            truth += 1;
            if self.people[index].asks_at > millis {
                continue;
            }
            let ahead = steps.of(Place(place));
            if millis > 0 {
                assert!(
                    (ahead - before).abs() * 50 <= before,
                    "{ahead} shown and {before} ahead of {place} after {millis} ms"
                );
                // By what a group is exact to.
                let last = self.people[index].shown;
                assert!(ahead <= last + last / 64, "{last} rose to {ahead}");
                self.people[index].shown = ahead;
            }
            let wait = published.wait(Some(ahead), at(millis));
            let pause = poll_after_ms(PlaceState::Waiting, wait, self.jitter());
            self.people[index].asks_at = millis + i64::from(pause);
            let (_, bitmap) = self.seen.back_mut().unwrap();
            bitmap[index / 8] |= 0x80 >> (index % 8);
        }
    }

    fn run(&mut self, from: i64, seconds: i64) {
        for tick in 1..=seconds * 4 {
            self.tick(from * 1_000 + tick * 250);
        }
    }
}

fn check(rate_per_minute: u32, people: i64, absent: Absent) {
    let mut polls = Polls::new(rate_per_minute, people, absent);
    polls.run(-BEFORE_SECONDS, BEFORE_SECONDS + 120);
}

#[test]
fn a_thousand_that_poll_when_due_are_counted_exactly_at_slow_rates() {
    for rate in [6, 40, 120, 600] {
        check(rate, 1_000, Absent::Nobody);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn people_ahead_are_within_two_percent_of_the_truth_and_never_rise(
        power in 0_u32..=4,
        rate in 6_u32..=60,
        people in 1_i64..2_000,
        absent in prop_oneof![
            Just(Absent::Nobody),
            (2_i64..20).prop_map(Absent::OneIn),
            (1_i64..500).prop_map(Absent::Runs),
            (1_i64..100).prop_map(Absent::Front),
        ],
    ) {
        let rate = (rate * 10_u32.pow(power)).min(60_000);
        check(rate, people, absent);
    }
}
