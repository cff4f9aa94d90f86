//! The brake (AIMD): reduces the rate when a bottleneck behind the gate is too slow for those
//! inside.

use chrono::{DateTime, TimeDelta, Utc};

use crate::queue::{Braking, Strain};

/// Measures of strain. Unknown ones count as none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Age of the oldest booking request without an outcome, in seconds.
    pub oldest_booking_seconds: f64,
    /// Which part of the booking API's answers were failures (5xx), from 0 to 1.
    pub failures: f64,
    /// Mean latency of the booking API, in seconds.
    pub answer_seconds: f64,
    /// Lag of the oldest due call to the payment provider, in seconds.
    pub oldest_payment_seconds: f64,
    /// Whether the payment provider seems down.
    pub is_payment_down: bool,
    /// Latency of a small query to PostgreSQL, in seconds.
    pub database_seconds: f64,
}

const OLDEST_BOOKING_SECONDS: f64 = 5.0;
const MOST_FAILURES: f64 = 0.05;
const ANSWER_SECONDS: f64 = 1.5;
const OLDEST_PAYMENT_SECONDS: f64 = 20.0;
const DATABASE_SECONDS: f64 = 0.5;
/// Shortest time between two decreases, so that the effect of one shows before the next.
const SLOW_PERIOD: TimeDelta = TimeDelta::seconds(5);
/// The rate recovers by one step in this time.
const RECOVER_PERIOD: TimeDelta = TimeDelta::seconds(2);
const STEP_PERCENT: f64 = 5.0;
const LEAST_PERCENT: f64 = 2.0;

impl Load {
    /// The bottleneck.
    #[must_use]
    pub fn strain(&self) -> Option<Strain> {
        if self.database_seconds > DATABASE_SECONDS {
            Some(Strain::Database)
        } else if self.oldest_booking_seconds > OLDEST_BOOKING_SECONDS {
            Some(Strain::Bookings)
        } else if self.failures > MOST_FAILURES || self.answer_seconds > ANSWER_SECONDS {
            Some(Strain::Api)
        } else if self.is_payment_down || self.oldest_payment_seconds > OLDEST_PAYMENT_SECONDS {
            Some(Strain::Payments)
        } else {
            None
        }
    }
}

/// Slows by halves while there is strain, and recovers by steps of 5 % when there is none.
#[derive(Debug, Clone)]
pub struct Brake {
    percent: f64,
    by: Option<Strain>,
    changed_at: Option<DateTime<Utc>>,
}

impl Default for Brake {
    fn default() -> Self {
        Self {
            percent: 100.0,
            by: None,
            changed_at: None,
        }
    }
}

impl Brake {
    /// Updates the brake with the measures at `now` (AIMD).
    pub fn observe(&mut self, now: DateTime<Utc>, load: &Load) {
        self.by = load.strain();
        let is_free = self.percent >= 100.0;
        let rested = |period| self.changed_at.is_none_or(|at| now - at >= period);
        if self.by.is_some() && (is_free || rested(SLOW_PERIOD)) {
            self.percent = (self.percent / 2.0).max(LEAST_PERCENT);
            self.changed_at = Some(now);
        } else if self.by.is_none() && self.percent < 100.0 && rested(RECOVER_PERIOD) {
            self.percent = (self.percent + STEP_PERCENT).min(100.0);
            self.changed_at = Some(now);
        }
    }

    /// The share of the set rate that passes.
    #[must_use]
    pub fn state(&self) -> Braking {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 2 to 100"
        )]
        let percent = self.percent.round() as u32;
        Braking {
            percent,
            by: self.by,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    #[test]
    fn strain_halves_the_rate_and_rest_brings_it_back_by_steps() {
        let mut brake = Brake::default();
        let slow = Load {
            oldest_booking_seconds: 9.0,
            ..Load::default()
        };
        let percents: Vec<u32> = (0..12)
            .map(|second| {
                brake.observe(at(second), &slow);
                brake.state().percent
            })
            .collect();
        assert_eq!(percents, [50, 50, 50, 50, 50, 25, 25, 25, 25, 25, 13, 13]);
        assert_eq!(brake.state().by, Some(Strain::Bookings));
        for second in 12..22 {
            brake.observe(at(second), &Load::default());
        }
        assert_eq!((brake.state().percent, brake.state().by), (38, None));
        for second in 22..60 {
            brake.observe(at(second), &Load::default());
        }
        assert_eq!(brake.state(), Braking::default());
    }

    #[test]
    fn each_part_behind_the_gate_is_felt() {
        let none = Load::default();
        let strains = [
            Load {
                database_seconds: 1.0,
                ..none
            },
            Load {
                failures: 0.2,
                ..none
            },
            Load {
                answer_seconds: 2.0,
                ..none
            },
            Load {
                is_payment_down: true,
                ..none
            },
            Load {
                oldest_payment_seconds: 60.0,
                ..none
            },
            none,
        ]
        .map(|load| load.strain());
        use Strain::{Api, Database, Payments};
        assert_eq!(
            strains,
            [
                Some(Database),
                Some(Api),
                Some(Api),
                Some(Payments),
                Some(Payments),
                None
            ]
        );
    }
}
