//! The brake: AIMD control of the share of the set rate that passes, by the load behind the gate.

use chrono::{DateTime, TimeDelta, Utc};

use crate::queue::{Bottleneck, BrakeState};

/// Load of what is behind the gate. Unknown measures are 0.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Load {
    /// Age of the oldest booking request without an outcome, in seconds.
    pub oldest_booking_seconds: f64,
    /// Failure rate (5xx) of the booking API, from 0 to 1.
    pub failures: f64,
    /// Mean latency of the booking API, in seconds.
    pub answer_seconds: f64,
    /// Lag of the oldest due call to the payment provider, in seconds.
    pub oldest_payment_seconds: f64,
    /// Whether the payment worker's circuit breaker is open.
    pub is_payment_down: bool,
    /// Latency of a small query to PostgreSQL, in seconds.
    pub database_seconds: f64,
}

const MAX_BOOKING_SECONDS: f64 = 5.0;
const MAX_FAILURES: f64 = 0.05;
const MAX_ANSWER_SECONDS: f64 = 1.5;
const MAX_PAYMENT_SECONDS: f64 = 20.0;
const MAX_DATABASE_SECONDS: f64 = 0.5;
/// Shortest time between two decreases, so that one takes effect before the next.
const DECREASE_PERIOD: TimeDelta = TimeDelta::seconds(5);
/// Shortest time between two increases.
const INCREASE_PERIOD: TimeDelta = TimeDelta::seconds(2);
const STEP_PERCENT: f64 = 5.0;
const MIN_PERCENT: f64 = 2.0;

impl Load {
    /// The first bottleneck, from the database outwards; `None` when every measure is within
    /// bounds.
    #[must_use]
    pub fn bottleneck(&self) -> Option<Bottleneck> {
        if self.database_seconds > MAX_DATABASE_SECONDS {
            Some(Bottleneck::Database)
        } else if self.oldest_booking_seconds > MAX_BOOKING_SECONDS {
            Some(Bottleneck::Bookings)
        } else if self.failures > MAX_FAILURES || self.answer_seconds > MAX_ANSWER_SECONDS {
            Some(Bottleneck::Api)
        } else if self.is_payment_down || self.oldest_payment_seconds > MAX_PAYMENT_SECONDS {
            Some(Bottleneck::Payments)
        } else {
            None
        }
    }
}

/// Halves the rate while there is a bottleneck, and increases it by steps of 5 % when there is
/// none.
#[derive(Debug, Clone)]
pub struct Brake {
    percent: f64,
    by: Option<Bottleneck>,
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
    /// Applies the load measured at `now`.
    pub fn observe(&mut self, now: DateTime<Utc>, load: &Load) {
        self.by = load.bottleneck();
        let is_free = self.percent >= 100.0;
        let rested = |period| self.changed_at.is_none_or(|at| now - at >= period);
        if self.by.is_some() && (is_free || rested(DECREASE_PERIOD)) {
            self.percent = (self.percent / 2.0).max(MIN_PERCENT);
            self.changed_at = Some(now);
        } else if self.by.is_none() && self.percent < 100.0 && rested(INCREASE_PERIOD) {
            self.percent = (self.percent + STEP_PERCENT).min(100.0);
            self.changed_at = Some(now);
        }
    }

    /// The share of the set rate that passes.
    #[must_use]
    pub fn state(&self) -> BrakeState {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "from 2 to 100"
        )]
        let percent = self.percent.round() as u32;
        BrakeState {
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
    fn a_bottleneck_halves_the_rate_and_it_recovers_by_steps() {
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
        assert_eq!(brake.state().by, Some(Bottleneck::Bookings));
        for second in 12..22 {
            brake.observe(at(second), &Load::default());
        }
        assert_eq!((brake.state().percent, brake.state().by), (38, None));
        for second in 22..60 {
            brake.observe(at(second), &Load::default());
        }
        assert_eq!(brake.state(), BrakeState::default());
    }

    #[test]
    fn each_bottleneck_behind_the_gate_is_detected() {
        let none = Load::default();
        let bottlenecks = [
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
        .map(|load| load.bottleneck());
        use Bottleneck::{Api, Database, Payments};
        assert_eq!(
            bottlenecks,
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
