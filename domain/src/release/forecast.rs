//! Forecast of waits: an EWMA of the pace of calls, calibrated by stochastic quantile regression on
//! the outcomes of past predictions.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};

use super::bits::BitSet;
use super::calls::Calls;
use crate::Place;
use crate::queue::{Eta, Pace};

/// Time constant of the EWMA of the pace, in seconds.
const PACE_SECONDS: f64 = 20.0;
/// Learning rate: the weight of one outcome.
const LEARNING_RATE: f64 = 0.02;
/// Most predictions followed at once.
const MAX_FOLLOWED: usize = 2_048;
/// Shorter predictions are answered by the next ticks and say nothing of the pace.
const MIN_FOLLOWED_SECONDS: f64 = 3.0;

/// Outcomes of predictions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Called by the p50.
    pub by_p50: u64,
    /// Called later, and by the p90.
    pub by_p90: u64,
    /// Called later than that.
    pub later: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Forecast {
    /// EWMA of the calls a second.
    measured: Option<f64>,
    at: Option<DateTime<Utc>>,
    /// Ratio of actual to predicted waits, as logarithms: the median and the 90th percentile.
    ratio_p50: f64,
    ratio_p90: f64,
    followed: VecDeque<Followed>,
    /// State of the generator that samples places.
    draw: u64,
    outcomes: Outcomes,
}

/// The progress of a line.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    pub(super) waiting: &'a BitSet,
    pub(super) cursor: i64,
    pub(super) calls: &'a Calls,
}

/// A prediction whose outcome is awaited.
#[derive(Debug, Clone, Copy)]
struct Followed {
    place: Place,
    at: DateTime<Utc>,
    /// The predicted wait before calibration.
    seconds: f64,
    eta: Eta,
}

impl Default for Forecast {
    fn default() -> Self {
        Self {
            measured: None,
            at: None,
            ratio_p50: 0.0,
            ratio_p90: 0.25,
            followed: VecDeque::new(),
            draw: 0x9e37_79b9_7f4a_7c15,
            outcomes: Outcomes::default(),
        }
    }
}

impl Forecast {
    /// Records that `people` were called in the step until `now`.
    pub(super) fn called(&mut self, now: DateTime<Utc>, people: u32) {
        let then = self.at.replace(now);
        let Some(seconds) = then
            .map(|then| (now - then).as_seconds_f64())
            .filter(|s| *s > 0.0)
        else {
            return;
        };
        let weight = 1.0 - (-seconds / PACE_SECONDS).exp();
        let pace = f64::from(people) / seconds;
        let measured = self.measured.unwrap_or(pace);
        self.measured = Some(measured + weight * (pace - measured));
    }

    pub(super) fn measured(&self) -> Option<f64> {
        self.measured
    }

    /// Returns the published pace for calls at `per_second`.
    pub(super) fn pace(&self, per_second: f64) -> Pace {
        Pace {
            p50_per_hour: per_hour(per_second, self.ratio_p50),
            p90_per_hour: per_hour(per_second, self.ratio_p90.max(self.ratio_p50)),
        }
    }

    /// Samples the prediction for one of the `waiting` places that have somebody before them.
    /// `find` returns the place with so many people ahead.
    pub(super) fn follow(
        &mut self,
        now: DateTime<Utc>,
        per_second: f64,
        waiting: i64,
        find: impl FnOnce(i64) -> Option<Place>,
    ) {
        if self.followed.len() >= MAX_FOLLOWED || waiting < 1 {
            return;
        }
        self.draw = self
            .draw
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let waiting = u64::try_from(waiting).expect("not negative");
        let ahead = i64::try_from((self.draw >> 33) % waiting).expect("as few as people");
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let seconds = (ahead + 1) as f64 / per_second;
        if seconds < MIN_FOLLOWED_SECONDS {
            return;
        }
        if let Some(place) = find(ahead) {
            let eta = self.pace(per_second).eta(ahead);
            self.followed.push_back(Followed {
                place,
                at: now,
                seconds,
                eta,
            });
        }
    }

    /// Records the outcomes of places that no longer wait. One that left, or was absent when the
    /// cursor passed it, has none.
    pub(super) fn learn(&mut self, now: DateTime<Utc>, line: &Progress<'_>) {
        let mut followed = std::mem::take(&mut self.followed);
        followed.retain(|prediction| {
            let waits = line.waiting.contains(prediction.place.0);
            if !waits && line.calls.is_called_at(prediction.place, now) {
                self.count(now, prediction);
            }
            waits && prediction.place.0 > line.cursor
        });
        self.followed = followed;
    }

    fn count(&mut self, now: DateTime<Utc>, prediction: &Followed) {
        let waited = (now - prediction.at).as_seconds_f64();
        let ratio = (waited / prediction.seconds).ln();
        let step = |ratio_of: f64, part: f64| {
            LEARNING_RATE * if ratio > ratio_of { part } else { part - 1.0 }
        };
        self.ratio_p50 = (self.ratio_p50 + step(self.ratio_p50, 0.5)).clamp(-2.0, 2.0);
        self.ratio_p90 = (self.ratio_p90 + step(self.ratio_p90, 0.9)).clamp(-2.0, 2.5);
        let count = match waited {
            waited if waited <= prediction.eta.p50 => &mut self.outcomes.by_p50,
            waited if waited <= prediction.eta.p90 => &mut self.outcomes.by_p90,
            _ => &mut self.outcomes.later,
        };
        *count += 1;
    }

    /// Returns the outcomes since the last call.
    pub(super) fn take_outcomes(&mut self) -> Outcomes {
        std::mem::take(&mut self.outcomes)
    }
}

fn per_hour(per_second: f64, ratio: f64) -> u32 {
    let per_hour = per_second * 3_600.0 / ratio.exp();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped"
    )]
    let rounded = per_hour.round().clamp(1.0, f64::from(u32::MAX)) as u32;
    rounded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::line::Run;
    use crate::release::tests::at;

    #[test]
    fn the_measured_pace_follows_the_calls_and_forgets_half_in_its_time() {
        let mut forecast = Forecast::default();
        assert_eq!(forecast.measured(), None);
        forecast.called(at(0), 100);
        assert_eq!(forecast.measured(), None, "a first moment has no length");
        forecast.called(at(500), 5);
        assert_eq!(forecast.measured(), Some(10.0));
        for tick in 1..=80 {
            forecast.called(at(500 + tick * 250), 5);
        }
        // 20 s at twice the pace: e^-1 of the difference is left.
        let expected = 20.0 - 10.0 * (-1.0_f64).exp();
        let measured = forecast.measured().unwrap();
        assert!((measured - expected).abs() < 0.01, "{measured}");
    }

    #[test]
    fn the_first_p90_is_three_quarters_of_the_pace() {
        let pace = Forecast::default().pace(10.0);
        assert_eq!((pace.p50_per_hour, pace.p90_per_hour), (36_000, 28_037));
        assert_eq!(Forecast::default().pace(0.0).p50_per_hour, 1);
    }

    /// Follows waits for so many ticks that all take `part` of what was predicted.
    fn learn(forecast: &mut Forecast, part: f64) {
        for nth in 1..=2_000 {
            let (published, place) = (at(nth * 1_000_000), Place(nth));
            forecast.follow(published, 1.0, 100, |_| Some(place));
            let Some(followed) = forecast.followed.back().copied() else {
                continue;
            };
            #[expect(clippy::cast_possible_truncation, reason = "milliseconds")]
            let waited = (followed.seconds * part * 1_000.0) as i64;
            let now = published + chrono::TimeDelta::milliseconds(waited);
            let mut calls = Calls::default();
            let (first, last) = (place, place);
            calls.add(now, &[Run { first, last }]);
            let progress = Progress {
                waiting: &BitSet::default(),
                cursor: place.0,
                calls: &calls,
            };
            forecast.learn(now, &progress);
        }
    }

    #[test]
    fn waits_that_take_longer_than_predicted_are_predicted_longer() {
        let mut forecast = Forecast::default();
        learn(&mut forecast, 2.0);
        let pace = forecast.pace(10.0);
        assert!((15_000..21_000).contains(&pace.p50_per_hour), "{pace:?}");
        let outcomes = forecast.take_outcomes();
        let all = outcomes.by_p50 + outcomes.by_p90 + outcomes.later;
        assert!(all > 1_500 && outcomes.later < all / 5, "{outcomes:?}");
        assert_eq!(forecast.take_outcomes(), Outcomes::default());

        learn(&mut forecast, 0.5);
        let pace = forecast.pace(10.0);
        assert!((60_000..80_000).contains(&pace.p50_per_hour), "{pace:?}");
    }

    #[test]
    fn places_that_left_or_were_passed_have_no_outcome() {
        let mut forecast = Forecast::default();
        forecast.follow(at(0), 1.0, 100, |_| Some(Place(5)));
        while forecast.followed.is_empty() {
            forecast.follow(at(0), 1.0, 100, |_| Some(Place(5)));
        }
        let mut waiting = BitSet::default();
        waiting.insert(5);
        let still = |waiting: &BitSet, cursor, forecast: &mut Forecast| {
            let calls = Calls::default();
            let progress = Progress {
                waiting,
                cursor,
                calls: &calls,
            };
            forecast.learn(at(9_000), &progress);
            forecast.followed.len()
        };
        assert_ne!(still(&waiting, 4, &mut forecast), 0);
        assert_eq!(still(&waiting, 5, &mut forecast), 0, "passed");
        assert_eq!(forecast.take_outcomes(), Outcomes::default());
    }

    #[test]
    fn short_waits_and_empty_lines_are_not_followed() {
        let mut forecast = Forecast::default();
        for _ in 0..100 {
            forecast.follow(at(0), 100.0, 200, |_| Some(Place(1)));
            forecast.follow(at(0), 1.0, 0, |_| Some(Place(1)));
            forecast.follow(at(0), 1.0, 100, |_| None);
        }
        assert!(forecast.followed.is_empty());
    }
}
