//! Simulation of crowds that vanish or don't show up, on a virtual clock: how soon arrivals meet
//! the rate again.

use std::collections::VecDeque;

use super::tests::{at, facts, sale};
use super::*;
use crate::gate::Window;

/// A line of people who are seen every two seconds, come a moment after they are called, and pass
/// the gate as the exact rate and the cap allow.
struct Crowd {
    release: Release,
    sale: SaleSettings,
    millis: i64,
    joined: i64,
    /// Returns whether the holder of a place is present.
    is_there: fn(i64) -> bool,
    /// Returns whether they come when called.
    comes: fn(i64) -> bool,
    coming: VecDeque<Vec<Place>>,
    ready: VecDeque<Place>,
    window: Window,
    shopping: i64,
    over: Vec<Place>,
    /// Claims in each tick.
    claims: Vec<u32>,
}

/// A called place comes after two to seven ticks.
const MAX_DELAY: usize = 7;

impl Crowd {
    fn new(rate_per_minute: u32, joined: i64) -> Self {
        Self {
            release: Release::default(),
            sale: sale(rate_per_minute),
            millis: 0,
            joined,
            is_there: |_| true,
            comes: |_| true,
            coming: VecDeque::from(vec![Vec::new(); MAX_DELAY + 1]),
            ready: VecDeque::new(),
            window: Window::default(),
            shopping: 0,
            over: Vec::new(),
            claims: Vec::new(),
        }
    }

    fn see(&mut self) {
        let mut bitmap = vec![0_u8; usize::try_from(self.joined / 8 + 1).unwrap()];
        for place in (1..=self.joined).filter(|place| (self.is_there)(*place)) {
            bitmap[usize::try_from(place / 8).unwrap()] |= 0x80 >> (place % 8);
        }
        self.release
            .record_presence(seen_slot(at(self.millis)), 0, &bitmap);
    }

    fn claim(&mut self) -> Vec<Place> {
        let now = at(self.millis);
        self.window.forget_before(now);
        self.ready.extend(self.coming.pop_front().unwrap());
        self.coming.push_back(Vec::new());
        let by_rate = self.sale.rate_per_minute - self.window.claims(now);
        let by_cap = i64::from(self.sale.shopper_cap) - self.shopping;
        let slots = i64::from(by_rate).min(by_cap).max(0);
        let slots = usize::try_from(slots).unwrap().min(self.ready.len());
        let claimed: Vec<Place> = self.ready.drain(..slots).collect();
        let claims = u32::try_from(slots).unwrap();
        self.window.add(now, claims);
        self.shopping += i64::from(claims);
        self.claims.push(claims);
        claimed
    }

    fn tick(&mut self) {
        self.millis += 250;
        if self.millis % 2_000 == 0 {
            self.see();
        }
        let claimed = self.claim();
        let over = std::mem::take(&mut self.over);
        self.shopping -= i64::try_from(over.len()).unwrap();
        let ready: Vec<Place> = self.ready.iter().copied().collect();
        let facts = Facts {
            claimed: &claimed,
            over: &over,
            ready: &ready,
            shopping: self.shopping,
            ..facts(&self.sale, self.millis, self.joined)
        };
        let step = self.release.step(&facts);
        let called = step.iter().flat_map(|step| &step.moved.called);
        for Place(place) in called.flat_map(|run| run.places()) {
            if (self.is_there)(place) && (self.comes)(place) {
                let delay = 2 + usize::try_from(place.wrapping_mul(7) % 6).unwrap();
                self.coming[delay].push(Place(place));
            }
        }
    }

    fn run(&mut self, seconds: usize) {
        for _ in 0..seconds * 4 {
            self.tick();
        }
    }

    /// Claims of the last `seconds`, as a part of the rate.
    fn part(&self, seconds: usize) -> f64 {
        let last = &self.claims[self.claims.len() - seconds * 4..];
        let claims: u32 = last.iter().sum();
        f64::from(claims) * 60.0
            / (f64::from(self.sale.rate_per_minute) * f64::from(u32::try_from(seconds).unwrap()))
    }

    /// Most claims in any 60 s.
    fn most_in_a_minute(&self) -> u32 {
        let minutes = self.claims.windows(240.min(self.claims.len()));
        minutes.map(|minute| minute.iter().sum()).max().unwrap()
    }
}

#[test]
fn half_of_a_hundred_thousand_vanish_and_ten_seconds_later_the_rate_is_met_again() {
    let mut crowd = Crowd::new(6_000, 100_000);
    crowd.run(90);
    assert!(crowd.part(60) > 0.95, "before: {}", crowd.part(60));
    crowd.is_there = |place| place % 2 == 0;
    crowd.run(10);
    crowd.run(10);
    assert!(
        crowd.part(10) >= 0.95,
        "10 to 20 s after: {}",
        crowd.part(10)
    );
    crowd.run(60);
    assert!(crowd.part(60) >= 0.95, "a minute later: {}", crowd.part(60));
    assert!(crowd.most_in_a_minute() <= 6_000);
}

#[test]
fn no_shows_are_made_up_for_and_when_they_end_at_once_the_rate_is_not_exceeded() {
    let mut crowd = Crowd::new(6_000, 100_000);
    crowd.comes = |place| place % 10 >= 3;
    crowd.run(90);
    assert!(
        crowd.part(60) >= 0.95,
        "30 % don't show up: {}",
        crowd.part(60)
    );
    crowd.comes = |_| true;
    crowd.run(20);
    assert!(
        crowd.ready.len() < 600,
        "{} wait at the gate",
        crowd.ready.len()
    );
    crowd.run(60);
    assert!(
        (0.95..=1.0).contains(&crowd.part(60)),
        "all show up: {}",
        crowd.part(60)
    );
    assert!(
        crowd.ready.len() < 200,
        "{} wait at the gate",
        crowd.ready.len()
    );
    crowd.comes = |place| place % 2 == 0;
    crowd.run(10);
    crowd.run(30);
    assert!(crowd.part(30) >= 0.95, "half show up: {}", crowd.part(30));
    assert!(crowd.most_in_a_minute() <= 6_000);
}

#[test]
fn closed_tabs_do_not_stall_a_line_that_is_limited_by_the_cap() {
    let mut crowd = Crowd::new(12_000, 100_000);
    crowd.sale.shopper_cap = 1_000;
    crowd.is_there = |place| place % 20 != 0;
    crowd.run(60);
    assert!(
        (980..=1_000).contains(&crowd.shopping),
        "{}",
        crowd.shopping
    );
    let claimed: u32 = crowd.claims.iter().sum();
    let mut over = 1;
    // 50 slots a second come back.
    for _ in 0..240 {
        crowd.over = (over..over + 12).map(Place).collect();
        over += 12;
        crowd.tick();
        assert!(crowd.shopping <= 1_000);
    }
    let more = crowd.claims.iter().sum::<u32>() - claimed;
    assert!(more >= 240 * 12 * 95 / 100, "{more} of {}", 240 * 12);
}

#[test]
fn a_pause_of_a_minute_is_not_made_up_for() {
    let mut crowd = Crowd::new(6_000, 100_000);
    crowd.run(90);
    crowd.sale.paused = true;
    crowd.run(60);
    crowd.sale.paused = false;
    crowd.run(10);
    assert!(crowd.part(10) <= 1.1, "{}", crowd.part(10));
    crowd.run(20);
    assert!((0.95..=1.1).contains(&crowd.part(20)), "{}", crowd.part(20));
}
