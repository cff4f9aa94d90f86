//! Show rate of called people, and their hazard rate over time.
//!
//! For each stretch of time after a call it is counted how many had not come yet, and how many of
//! those came. From the shares of all stretches follows how many of the called will come at all,
//! and how many of those whose call is some time ago still will. Nobody need have been waited for
//! to the end: when half of the called stop coming, the first stretches show it within seconds.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};

/// Where the stretches end, in milliseconds after the call.
const EDGES: [i64; 18] = [
    500, 1_000, 1_500, 2_000, 2_500, 3_000, 4_000, 5_000, 7_000, 10_000, 15_000, 20_000, 30_000,
    45_000, 60_000, 120_000, 300_000, 900_000,
];
/// Nobody is taken to come less often than this, so the over-call is at most fourfold.
const FEWEST: f64 = 0.25;
/// A stretch's share is that of the last so many people at least.
const FEWEST_COUNTED: f64 = 40.0;
/// And of this much of the rate, in seconds.
const COUNTED_SECONDS: f64 = 1.5;
/// Weight of the prior, in people.
const BELIEVED: f64 = 10.0;
/// The prior: most come within three seconds, and few later.
const EARLY_SHARE: f64 = 0.4;
const LATE_SHARE: f64 = 0.005;
const LATE_MILLIS: i64 = 3_000;

#[derive(Debug, Clone)]
pub(super) struct Shows {
    /// Hazard rate: the share of those who had not come that came in the interval.
    shares: [f64; EDGES.len()],
    /// Sample size of each share, bounded so that old samples decay.
    counted: [f64; EDGES.len()],
    /// Number of intervals in the claim window.
    stretches: usize,
    cohorts: VecDeque<Cohort>,
}

/// Those called at one moment.
#[derive(Debug, Clone, Copy)]
struct Cohort {
    at: i64,
    stretch: usize,
    /// Number at risk at the start of the interval.
    began: u32,
    /// Number that have not come.
    open: u32,
}

impl Default for Shows {
    fn default() -> Self {
        let share = |edge| {
            if edge <= LATE_MILLIS {
                EARLY_SHARE
            } else {
                LATE_SHARE
            }
        };
        Self {
            shares: EDGES.map(share),
            counted: [BELIEVED; EDGES.len()],
            stretches: EDGES.len(),
            cohorts: VecDeque::new(),
        }
    }
}

impl Shows {
    pub(super) fn called(&mut self, at: DateTime<Utc>, people: u32) {
        let at = at.timestamp_millis();
        match self.cohorts.back_mut().filter(|last| last.at >= at) {
            Some(last) => {
                last.began += people;
                last.open += people;
            }
            None if people > 0 => self.cohorts.push_back(Cohort {
                at,
                stretch: 0,
                began: people,
                open: people,
            }),
            None => (),
        }
    }

    /// Somebody came who was called at `at`.
    pub(super) fn came(&mut self, at: DateTime<Utc>) {
        if let Some(cohort) = self.of(at) {
            cohort.open = cohort.open.saturating_sub(1);
        }
    }

    /// Somebody left who was called at `at`: nobody knows whether they would have come.
    pub(super) fn left(&mut self, at: DateTime<Utc>) {
        if let Some(cohort) = self.of(at) {
            cohort.open = cohort.open.saturating_sub(1);
            cohort.began = cohort.began.saturating_sub(1).max(cohort.open);
        }
    }

    /// Nobody is expected any more; what was learned stays.
    pub(super) fn forget_called(&mut self) {
        self.cohorts.clear();
    }

    /// Goes on with cohorts of which only those are known who have not come: what they do from
    /// `now` on is counted.
    pub(super) fn resume(&mut self, now: DateTime<Utc>) {
        let now = now.timestamp_millis();
        for cohort in &mut self.cohorts {
            cohort.stretch = EDGES.partition_point(|edge| now - cohort.at >= *edge);
            cohort.began = cohort.open;
        }
    }

    /// Counts what the time until `now` has shown, at a rate of so many people a second.
    pub(super) fn learn(&mut self, now: DateTime<Utc>, per_second: f64, window_seconds: u32) {
        let now = now.timestamp_millis();
        let window = i64::from(window_seconds) * 1_000;
        self.stretches = EDGES.partition_point(|edge| *edge < window) + 1;
        let most = (per_second * COUNTED_SECONDS).max(FEWEST_COUNTED);
        for cohort in &mut self.cohorts {
            while EDGES
                .get(cohort.stretch)
                .is_some_and(|edge| now - cohort.at >= *edge)
            {
                let (began, came) = (f64::from(cohort.began), cohort.began - cohort.open);
                if cohort.began > 0 {
                    let share = &mut self.shares[cohort.stretch];
                    let counted = &mut self.counted[cohort.stretch];
                    *counted = counted.min(most) + began;
                    *share += began / *counted * (f64::from(came) / began - *share);
                }
                cohort.stretch += 1;
                cohort.began = cohort.open;
            }
        }
        let is_over = |cohort: &Cohort| now - cohort.at >= window || cohort.open == 0;
        while self.cohorts.front().is_some_and(is_over) {
            self.cohorts.pop_front();
        }
    }

    /// Which part of those called now will come.
    pub(super) fn rate(&self) -> f64 {
        self.still(0).max(FEWEST)
    }

    /// Mean time to arrive of those who come, in seconds.
    pub(super) fn delay_seconds(&self) -> f64 {
        let (mut open, mut came, mut sum, mut from) = (1.0, 0.0, 0.0, 0.0);
        for (edge, share) in EDGES.iter().zip(&self.shares).take(12) {
            let to = f64::from(i32::try_from(*edge).expect("minutes")) / 1_000.0;
            let coming = open * share;
            sum += coming * (from + to) / 2.0;
            came += coming;
            open -= coming;
            from = to;
        }
        if came > 0.0 { sum / came } else { 0.0 }
    }

    /// Expected number of arrivals outstanding.
    pub(super) fn expected(&self) -> f64 {
        // After the last stretch nobody comes.
        let mut still = [0.0; EDGES.len() + 1];
        for (stretch, chance) in still[..EDGES.len()].iter_mut().enumerate() {
            *chance = self.still(stretch);
        }
        self.cohorts
            .iter()
            .map(|cohort| {
                // Within a stretch those who came lessen the chance of the others.
                let began = f64::from(cohort.began) * still[cohort.stretch];
                let came = f64::from(cohort.began - cohort.open);
                (began - came).clamp(0.0, f64::from(cohort.open))
            })
            .sum()
    }

    fn still(&self, stretch: usize) -> f64 {
        1.0 - self.shares[stretch..]
            .iter()
            .map(|share| 1.0 - share)
            .product::<f64>()
    }

    fn of(&mut self, at: DateTime<Utc>) -> Option<&mut Cohort> {
        let at = at.timestamp_millis();
        let index = self
            .cohorts
            .binary_search_by_key(&at, |cohort| cohort.at)
            .ok()?;
        self.cohorts.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::milliseconds(millis)
    }

    /// Calls 100 a second; `coming` of them come 1.5 s after their call.
    fn run(shows: &mut Shows, from: i64, seconds: i64, coming: u32) {
        for second in from..from + seconds {
            shows.called(at(second * 1_000), 100);
            for _ in 0..coming {
                shows.came(at((second - 1) * 1_000));
            }
            shows.learn(at(second * 1_000 + 500), 100.0, 60);
        }
    }

    #[test]
    fn the_rate_of_shows_is_known_within_seconds() {
        let mut shows = Shows::default();
        run(&mut shows, 0, 30, 100);
        assert!(shows.rate() > 0.95, "{}", shows.rate());
        run(&mut shows, 30, 7, 50);
        assert!(shows.rate() < 0.65, "{}", shows.rate());
        run(&mut shows, 37, 7, 100);
        assert!(shows.rate() > 0.9, "{}", shows.rate());
    }

    #[test]
    fn nobody_is_expected_who_did_not_come_in_time() {
        let mut shows = Shows::default();
        run(&mut shows, 0, 60, 70);
        let expected = shows.expected();
        assert!(
            (50.0..170.0).contains(&expected),
            "{expected} of the last two seconds"
        );
        assert!(
            (0.5..1.5).contains(&shows.delay_seconds()),
            "{}",
            shows.delay_seconds()
        );
    }
}
