//! How long people will wait: the pace that is told to everyone, and how right it was.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::bits::Bits;
use super::calls::Calls;
use crate::Place;
use crate::queue::{Eta, Pace, silence};

/// The measured pace forgets half of the past in about this much time, in seconds.
const MEASURED_SECONDS: f64 = 20.0;
/// How much one outcome moves what is believed of the others.
const LEARNING: f64 = 0.02;
/// How many predictions are followed at once.
const MOST_FOLLOWED: usize = 2_048;
/// Shorter predictions are answered by the next ticks and say nothing of the pace.
const SHORTEST_SECONDS: f64 = 3.0;
/// Polls follow a pace for as long as the longest pause between two.
const POLLS_FOLLOW: TimeDelta = TimeDelta::seconds(40);

/// How predictions came out.
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
    /// Calls a second, measured.
    measured: Option<f64>,
    at: Option<DateTime<Utc>>,
    /// What a wait is of its prediction, as logarithms: in half of the cases, and in nine of ten.
    ratio_p50: f64,
    ratio_p90: f64,
    followed: VecDeque<Followed>,
    /// Decides who is followed.
    draw: u64,
    outcomes: Outcomes,
    /// The paces told lately; `None` while nobody was called.
    told: VecDeque<(DateTime<Utc>, Option<Pace>)>,
}

/// How far a line has come.
#[derive(Debug)]
pub(super) struct Progress<'a> {
    pub(super) waiting: &'a Bits,
    pub(super) cursor: i64,
    pub(super) calls: &'a Calls,
}

/// A prediction whose outcome is awaited.
#[derive(Debug, Clone, Copy)]
struct Followed {
    place: Place,
    at: DateTime<Utc>,
    /// Without what was learned from others.
    seconds: f64,
    told: Eta,
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
            told: VecDeque::new(),
        }
    }
}

impl Forecast {
    /// `people` were called in the step until `now`.
    pub(super) fn called(&mut self, now: DateTime<Utc>, people: u32) {
        let then = self.at.replace(now);
        let Some(seconds) = then
            .map(|then| (now - then).as_seconds_f64())
            .filter(|s| *s > 0.0)
        else {
            return;
        };
        let weight = 1.0 - (-seconds / MEASURED_SECONDS).exp();
        let pace = f64::from(people) / seconds;
        let measured = self.measured.unwrap_or(pace);
        self.measured = Some(measured + weight * (pace - measured));
    }

    pub(super) fn measured(&self) -> Option<f64> {
        self.measured
    }

    /// What everyone is told when people are called at `per_second`.
    pub(super) fn pace(&self, per_second: f64) -> Pace {
        Pace {
            p50_per_hour: per_hour(per_second, self.ratio_p50),
            p90_per_hour: per_hour(per_second, self.ratio_p90.max(self.ratio_p50)),
        }
    }

    /// Takes note of what is told.
    pub(super) fn tell(&mut self, now: DateTime<Utc>, pace: Option<Pace>) {
        let is_kept = |at: DateTime<Utc>| now - at < POLLS_FOLLOW;
        while self.told.get(1).is_some_and(|next| !is_kept(next.0)) {
            self.told.pop_front();
        }
        let is_new = self.told.back().is_none_or(|last| {
            last.1.is_some() != pace.is_some() || now - last.0 >= TimeDelta::seconds(1)
        });
        if is_new {
            self.told.push_back((now, pace));
        }
    }

    /// How long somebody may be silent who has `ahead` people before them, by the slowest that was
    /// told while they may have asked last.
    pub(super) fn silence(&self, ahead: i64) -> Duration {
        let slowest = self.told.iter().filter_map(|told| told.1);
        let slowest = slowest.min_by_key(|pace| pace.p50_per_hour);
        let polling = slowest.map(|pace| silence(Some(pace.eta(ahead))));
        let has_stood = self.told.is_empty() || self.told.iter().any(|told| told.1.is_none());
        let standing = has_stood.then(|| silence(None));
        polling.max(standing).unwrap_or_else(|| silence(None))
    }

    /// Follows the prediction for one of the `waiting` places that have somebody before them, now
    /// and then. `find` gives the place with so many people ahead.
    pub(super) fn follow(
        &mut self,
        now: DateTime<Utc>,
        per_second: f64,
        waiting: i64,
        find: impl FnOnce(i64) -> Option<Place>,
    ) {
        if self.followed.len() >= MOST_FOLLOWED || waiting < 1 {
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
        if seconds < SHORTEST_SECONDS {
            return;
        }
        if let Some(place) = find(ahead) {
            let told = self.pace(per_second).eta(ahead);
            self.followed.push_back(Followed {
                place,
                at: now,
                seconds,
                told,
            });
        }
    }

    /// Counts the outcomes for those who no longer wait. Those who left, or were away when the
    /// cursor passed them, have none.
    pub(super) fn learn(&mut self, now: DateTime<Utc>, line: &Progress<'_>) {
        let mut followed = std::mem::take(&mut self.followed);
        followed.retain(|prediction| {
            let waits = line.waiting.has(prediction.place.0);
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
        let step =
            |ratio_of: f64, part: f64| LEARNING * if ratio > ratio_of { part } else { part - 1.0 };
        self.ratio_p50 = (self.ratio_p50 + step(self.ratio_p50, 0.5)).clamp(-2.0, 2.0);
        self.ratio_p90 = (self.ratio_p90 + step(self.ratio_p90, 0.9)).clamp(-2.0, 2.5);
        let count = match waited {
            waited if waited <= prediction.told.p50 => &mut self.outcomes.by_p50,
            waited if waited <= prediction.told.p90 => &mut self.outcomes.by_p90,
            _ => &mut self.outcomes.later,
        };
        *count += 1;
    }

    /// The outcomes since this was asked last.
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
