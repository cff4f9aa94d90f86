//! Calibration of the ETA forecast: for a sample of numbers the first forecast is compared with the
//! time of the call.

use std::collections::HashMap;
use std::sync::Mutex;

use chrono::{DateTime, Utc};
use domain::line::Standing;
use domain::queue::Eta;
use domain::{Number, Place};
use platform::line::View;
use platform::sync::MutexExt as _;

/// One number in this many is sampled.
const SAMPLE_EVERY: i64 = 61;
/// Maximum size of the sample.
const MAX_SAMPLE: usize = 10_000;

/// Open forecasts of one sale.
#[derive(Default)]
pub(crate) struct Calibration(Mutex<HashMap<Number, Prediction>>);

/// The first forecast for a number.
struct Prediction {
    place: Place,
    at: DateTime<Utc>,
    eta: Eta,
}

impl Calibration {
    /// Records the first forecast for `number`, if it is in the sample.
    pub(crate) fn record(&self, number: Number, place: Place, eta: Eta, now: DateTime<Utc>) {
        if number.0 % SAMPLE_EVERY != 0 {
            return;
        }
        let mut sample = self.0.lock_unpoisoned();
        if sample.len() < MAX_SAMPLE || sample.contains_key(&number) {
            let prediction = Prediction {
                place,
                at: now,
                eta,
            };
            sample.entry(number).or_insert(prediction);
        }
    }

    /// Emits the outcomes of numbers called since; numbers that left are dropped.
    pub(crate) fn settle(&self, view: &View) {
        let mut sample = self.0.lock_unpoisoned();
        sample.retain(
            |number, predicted| match view.line.standing(predicted.place) {
                Standing::Waiting => !view.line.has_left(*number),
                Standing::Called(at) => {
                    predicted.compare(at);
                    false
                }
                Standing::Missed | Standing::Claimed | Standing::Over => false,
            },
        );
    }
}

impl Prediction {
    fn compare(&self, called_at: DateTime<Utc>) {
        let seconds = (called_at - self.at).as_seconds_f64();
        let within = within(self.eta, seconds);
        metrics::counter!("waiting_room_eta_outcomes_total", "within" => within).increment(1);
        if self.eta.p50 > 0.0 {
            metrics::histogram!("waiting_room_eta_ratio").record(seconds / self.eta.p50);
        }
    }
}

fn within(eta: Eta, seconds: f64) -> &'static str {
    if seconds <= eta.p50 {
        "p50"
    } else if seconds <= eta.p90 {
        "p90"
    } else {
        "later"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_within_the_median_the_p90_or_later() {
        let eta = Eta {
            p50: 10.0,
            p90: 20.0,
        };
        assert_eq!(
            [9.0, 10.0, 20.0, 20.1].map(|seconds| within(eta, seconds)),
            ["p50", "p50", "p90", "later"]
        );
    }
}
