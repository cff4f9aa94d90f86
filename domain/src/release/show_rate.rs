//! Show rate of called people, estimated as a discrete-time hazard rate of arrivals after the call.
//!
//! The hazard of an interval is the share of those that had not come before it and come in it. From
//! the hazards of all intervals follows how many of the called will come at all, and how many of
//! those whose call is some time ago still will. No cohort need have been observed to the end: when
//! half of the called stop coming, the first intervals show it within seconds.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};

/// Ends of the intervals, in milliseconds after the call.
const EDGES: [i64; 18] = [
    500, 1_000, 1_500, 2_000, 2_500, 3_000, 4_000, 5_000, 7_000, 10_000, 15_000, 20_000, 30_000,
    45_000, 60_000, 120_000, 300_000, 900_000,
];
/// Lower bound of the show rate, so that at most four times the rate is called.
const MIN_SHOW_RATE: f64 = 0.25;
/// Bound of the sample size of a hazard, in people, at low rates.
const MIN_SAMPLE: f64 = 40.0;
/// The bound at higher rates, in seconds of the rate.
const SAMPLE_SECONDS: f64 = 1.5;
/// Weight of the prior, in people.
const PRIOR_WEIGHT: f64 = 10.0;
/// Prior hazards: most come within three seconds, and few later.
const EARLY_HAZARD: f64 = 0.4;
const LATE_HAZARD: f64 = 0.005;
const LATE_AFTER_MILLIS: i64 = 3_000;

#[derive(Debug, Clone)]
pub(super) struct ShowRate {
    /// Hazard of each interval.
    hazards: [f64; EDGES.len()],
    /// Sample size of each hazard, bounded so that old samples decay.
    samples: [f64; EDGES.len()],
    /// Number of intervals in the claim window.
    intervals: usize,
    cohorts: VecDeque<Cohort>,
}

/// Those called at one moment.
#[derive(Debug, Clone, Copy)]
struct Cohort {
    at: i64,
    interval: usize,
    /// Number at risk at the start of the interval.
    began: u32,
    /// Number that have not come.
    open: u32,
}

impl Default for ShowRate {
    fn default() -> Self {
        let hazard = |edge| {
            if edge <= LATE_AFTER_MILLIS {
                EARLY_HAZARD
            } else {
                LATE_HAZARD
            }
        };
        Self {
            hazards: EDGES.map(hazard),
            samples: [PRIOR_WEIGHT; EDGES.len()],
            intervals: EDGES.len(),
            cohorts: VecDeque::new(),
        }
    }
}

impl ShowRate {
    pub(super) fn called(&mut self, at: DateTime<Utc>, people: u32) {
        let at = at.timestamp_millis();
        match self.cohorts.back_mut().filter(|last| last.at >= at) {
            Some(last) => {
                last.began += people;
                last.open += people;
            }
            None if people > 0 => self.cohorts.push_back(Cohort {
                at,
                interval: 0,
                began: people,
                open: people,
            }),
            None => (),
        }
    }

    /// Records the arrival of a place called at `at`.
    pub(super) fn came(&mut self, at: DateTime<Utc>) {
        if let Some(cohort) = self.cohort_of(at) {
            cohort.open = cohort.open.saturating_sub(1);
        }
    }

    /// Censors a place called at `at` that left: whether it would have come is unknown.
    pub(super) fn left(&mut self, at: DateTime<Utc>) {
        if let Some(cohort) = self.cohort_of(at) {
            cohort.open = cohort.open.saturating_sub(1);
            cohort.began = cohort.began.saturating_sub(1).max(cohort.open);
        }
    }

    /// Drops the cohorts; the estimates stay.
    pub(super) fn clear_cohorts(&mut self) {
        self.cohorts.clear();
    }

    /// Goes on with cohorts of which only those are known who have not come: what they do from
    /// `now` on is sampled.
    pub(super) fn resume(&mut self, now: DateTime<Utc>) {
        let now = now.timestamp_millis();
        for cohort in &mut self.cohorts {
            cohort.interval = EDGES.partition_point(|edge| now - cohort.at >= *edge);
            cohort.began = cohort.open;
        }
    }

    /// Updates the hazards with the intervals that ended by `now`, at `per_second` of the rate.
    pub(super) fn learn(&mut self, now: DateTime<Utc>, per_second: f64, window_seconds: u32) {
        let now = now.timestamp_millis();
        let window = i64::from(window_seconds) * 1_000;
        self.intervals = EDGES.partition_point(|edge| *edge < window) + 1;
        let most = (per_second * SAMPLE_SECONDS).max(MIN_SAMPLE);
        for cohort in &mut self.cohorts {
            while EDGES
                .get(cohort.interval)
                .is_some_and(|edge| now - cohort.at >= *edge)
            {
                let (began, came) = (f64::from(cohort.began), cohort.began - cohort.open);
                if cohort.began > 0 {
                    let hazard = &mut self.hazards[cohort.interval];
                    let samples = &mut self.samples[cohort.interval];
                    *samples = samples.min(most) + began;
                    *hazard += began / *samples * (f64::from(came) / began - *hazard);
                }
                cohort.interval += 1;
                cohort.began = cohort.open;
            }
        }
        let is_over = |cohort: &Cohort| now - cohort.at >= window || cohort.open == 0;
        while self.cohorts.front().is_some_and(is_over) {
            self.cohorts.pop_front();
        }
    }

    /// Probability that a place called now comes.
    pub(super) fn rate(&self) -> f64 {
        self.arrival_probability(0).max(MIN_SHOW_RATE)
    }

    /// Mean time to arrive of those who come, in seconds.
    pub(super) fn delay_seconds(&self) -> f64 {
        let (mut open, mut came, mut sum, mut from) = (1.0, 0.0, 0.0, 0.0);
        for (edge, hazard) in EDGES.iter().zip(&self.hazards).take(12) {
            let to = f64::from(i32::try_from(*edge).expect("minutes")) / 1_000.0;
            let coming = open * hazard;
            sum += coming * (from + to) / 2.0;
            came += coming;
            open -= coming;
            from = to;
        }
        if came > 0.0 { sum / came } else { 0.0 }
    }

    /// Expected number of arrivals outstanding.
    pub(super) fn expected(&self) -> f64 {
        // Nobody comes after the last interval.
        let mut still = [0.0; EDGES.len() + 1];
        for (interval, chance) in still[..EDGES.len()].iter_mut().enumerate() {
            *chance = self.arrival_probability(interval);
        }
        self.cohorts
            .iter()
            .map(|cohort| {
                // Within an interval, arrivals lessen the chance of the others.
                let began = f64::from(cohort.began) * still[cohort.interval];
                let came = f64::from(cohort.began - cohort.open);
                (began - came).clamp(0.0, f64::from(cohort.open))
            })
            .sum()
    }

    /// Probability that a place that has not come by the start of `interval` still comes.
    fn arrival_probability(&self, interval: usize) -> f64 {
        1.0 - self.hazards[interval..]
            .iter()
            .map(|hazard| 1.0 - hazard)
            .product::<f64>()
    }

    fn cohort_of(&mut self, at: DateTime<Utc>) -> Option<&mut Cohort> {
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
    fn run(show_rate: &mut ShowRate, from: i64, seconds: i64, coming: u32) {
        for second in from..from + seconds {
            show_rate.called(at(second * 1_000), 100);
            for _ in 0..coming {
                show_rate.came(at((second - 1) * 1_000));
            }
            show_rate.learn(at(second * 1_000 + 500), 100.0, 60);
        }
    }

    #[test]
    fn a_changed_show_rate_is_estimated_within_seconds() {
        let mut show_rate = ShowRate::default();
        run(&mut show_rate, 0, 30, 100);
        assert!(show_rate.rate() > 0.95, "{}", show_rate.rate());
        run(&mut show_rate, 30, 7, 50);
        assert!(show_rate.rate() < 0.65, "{}", show_rate.rate());
        run(&mut show_rate, 37, 7, 100);
        assert!(show_rate.rate() > 0.9, "{}", show_rate.rate());
    }

    #[test]
    fn no_shows_are_no_longer_expected() {
        let mut show_rate = ShowRate::default();
        run(&mut show_rate, 0, 60, 70);
        let expected = show_rate.expected();
        assert!(
            (50.0..170.0).contains(&expected),
            "{expected} of the last two seconds"
        );
        assert!(
            (0.5..1.5).contains(&show_rate.delay_seconds()),
            "{}",
            show_rate.delay_seconds()
        );
    }
}
