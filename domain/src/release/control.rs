//! The rate controller: a token bucket with integral feedback, so that arrivals, not calls, meet
//! the rate.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// Period of the release loop.
pub const TICK: Duration = Duration::from_millis(250);
/// Bound of the credit that a stalled loop earns at once, in seconds of the rate.
const MAX_STEP_SECONDS: f64 = 1.0;
/// Factor on the rate of calls while arrivals are short.
const CATCH_UP_FACTOR: f64 = 1.25;
/// Shortfall from which on calls are faster, in seconds of the rate.
const CATCH_UP_SECONDS: f64 = 1.0;
/// Bound of the shortfall that is made up for, in seconds of the rate; what is missing beyond is
/// forgotten.
const MAX_DEBT_SECONDS: f64 = 3.0;

/// Controls calls, counted in people who come.
#[derive(Debug, Clone, Default)]
pub(super) struct RateController {
    /// Calls that may be made.
    credit: f64,
    /// Accumulated shortfall of arrivals below the rate, while people waited.
    debt: f64,
    at: Option<DateTime<Utc>>,
    is_busy: bool,
}

/// Limits of the calls.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// The rate: people who come, a second.
    pub(super) per_second: f64,
    /// Called people still expected to arrive.
    pub(super) expected: f64,
    /// Length of the ready line.
    pub(super) ready: f64,
    /// Share of the called that come.
    pub(super) show_rate: f64,
    /// Their mean time to arrive, in seconds.
    pub(super) delay_seconds: f64,
    /// Headroom for more shoppers within cap and stock, before those expected and those in the
    /// ready line are subtracted.
    pub(super) headroom: f64,
}

impl RateController {
    /// Returns the number of calls at `now`, after `came` arrivals since the last step.
    ///
    /// An empty line has credit for one person and one tick: its first visitor does not wait, and
    /// a crowd does not get in at once. A rate of 0 grants nothing and earns nothing.
    pub(super) fn grant(&mut self, now: DateTime<Utc>, came: u32, limits: &Limits) -> u32 {
        let elapsed = match self.at.replace(now) {
            Some(then) => (now - then).as_seconds_f64().max(0.0),
            None => {
                self.credit = 1.0;
                0.0
            }
        };
        let rate = limits.per_second;
        if rate <= 0.0 {
            self.debt = 0.0;
            return 0;
        }
        let longest = if self.is_busy {
            MAX_STEP_SECONDS
        } else {
            TICK.as_secs_f64()
        };
        let seconds = elapsed.min(longest);
        let most = rate * MAX_DEBT_SECONDS;
        self.debt = (self.debt + rate * seconds - f64::from(came)).clamp(-most, most);
        self.credit += rate
            * seconds
            * if self.debt > rate * CATCH_UP_SECONDS {
                CATCH_UP_FACTOR
            } else {
                1.0
            };
        let underway = limits.expected + limits.ready;
        let wanted = rate * limits.delay_seconds + self.debt + 1.0 - underway;
        let headroom = limits.headroom - underway;
        let by_headroom = (headroom / limits.show_rate + 0.5).floor();
        let called = (self.credit.min(wanted) / limits.show_rate + 1e-9)
            .floor()
            .min(by_headroom);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and as few as people"
        )]
        let called = called.clamp(0.0, 1e9) as u32;
        if by_headroom <= f64::from(called) {
            self.debt = self.debt.min(0.0);
        }
        called
    }

    /// Spends the credit of `called` calls; `is_busy` says whether more people wait. Unused credit
    /// expires, but for one.
    pub(super) fn spend(&mut self, called: u32, show_rate: f64, is_busy: bool) {
        self.credit = (self.credit - f64::from(called) * show_rate).clamp(0.0, 1.0);
        self.is_busy = is_busy;
        if !is_busy {
            self.debt = self.debt.min(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::milliseconds(millis)
    }

    /// Calls in `ticks` ticks after `from`, while `waiting` people wait who come at once.
    fn run(
        controller: &mut RateController,
        from: i64,
        ticks: i64,
        per_minute: f64,
        waiting: u32,
    ) -> u32 {
        let mut left = waiting;
        let mut came = 0;
        for tick in 1..=ticks {
            let limits = Limits {
                per_second: per_minute / 60.0,
                expected: 0.0,
                ready: 0.0,
                show_rate: 1.0,
                delay_seconds: 1.0,
                headroom: 1e6,
            };
            came = controller
                .grant(at(from + tick * 250), came, &limits)
                .min(left);
            left -= came;
            controller.spend(came, 1.0, left > 0);
        }
        waiting - left
    }

    #[test]
    fn a_busy_line_is_called_at_the_rate() {
        let mut controller = RateController::default();
        assert_eq!(run(&mut controller, 0, 1, 60.0, 10), 1);
        let called = run(&mut controller, 250, 2_400, 61.0, 10_000);
        assert!((609..=612).contains(&called), "{called}");
    }

    fn limits() -> Limits {
        Limits {
            per_second: 10.0,
            expected: 0.0,
            ready: 0.0,
            show_rate: 0.5,
            delay_seconds: 2.0,
            headroom: 1e6,
        }
    }

    /// A line in which two were called at once, by the credit of the first moment.
    fn begun() -> RateController {
        let mut controller = RateController::default();
        assert_eq!(controller.grant(at(0), 0, &limits()), 2);
        controller.spend(2, 0.5, true);
        controller
    }

    #[test]
    fn as_many_more_are_called_as_do_not_come() {
        let mut controller = begun();
        let expecting = Limits {
            expected: 1.0,
            ..limits()
        };
        // A quarter of a second is 2.5 people, and half of those called come.
        assert_eq!(controller.grant(at(250), 0, &expecting), 5);
        controller.spend(5, 0.5, true);
        assert_eq!(controller.grant(at(450), 4, &expecting), 4);
    }

    #[test]
    fn nobody_is_called_while_enough_are_underway() {
        // Two seconds of the rate, what came too few, and one: 23.5.
        for (underway, called) in [(20.0, 5), (22.5, 2), (23.0, 1), (24.0, 0)] {
            for (expected, ready) in [(underway, 0.0), (1.0, underway - 1.0)] {
                let limits = Limits {
                    expected,
                    ready,
                    ..limits()
                };
                assert_eq!(begun().grant(at(250), 0, &limits), called, "{underway}");
            }
        }
    }

    #[test]
    fn calls_fill_the_headroom_and_no_more() {
        for (headroom, called) in [(1.0, 0), (1.5, 1), (2.0, 2), (2.2, 2), (3.0, 4), (9.0, 5)] {
            let limits = Limits {
                expected: 1.0,
                headroom,
                ..limits()
            };
            assert_eq!(
                begun().grant(at(250), 0, &limits),
                called,
                "headroom of {headroom}"
            );
        }
    }

    #[test]
    fn a_line_that_falls_behind_catches_up_a_quarter_faster() {
        let mut controller = begun();
        let limits = Limits {
            show_rate: 1.0,
            delay_seconds: 100.0,
            ..limits()
        };
        // A stalled loop makes up for one second, which is not yet more than one missing.
        assert_eq!(controller.grant(at(5_000), 0, &limits), 10);
        controller.spend(10, 1.0, true);
        assert_eq!(controller.grant(at(6_000), 0, &limits), 12);
        controller.spend(12, 1.0, true);
        // Half a person of before, and the missing is made up for.
        assert_eq!(controller.grant(at(7_000), 30, &limits), 10);
    }

    #[test]
    fn after_an_hour_of_nobody_or_a_pause_a_crowd_gets_one_tick_and_one() {
        let mut controller = RateController::default();
        run(&mut controller, 0, 14_400, 600.0, 0);
        let after = run(&mut controller, 3_600_000, 1, 600.0, 1_000);
        assert!(after <= 4, "{after}");
        run(&mut controller, 3_600_250, 40, 600.0, 1_000);
        run(&mut controller, 3_610_250, 1_000, 0.0, 1_000);
        let after = run(&mut controller, 3_860_250, 1, 600.0, 1_000);
        assert!(after <= 4, "{after}");
    }

    #[test]
    fn a_trickle_of_people_is_held_to_the_rate() {
        let mut controller = RateController::default();
        let called: u32 = (0..240)
            .map(|tick| run(&mut controller, tick * 250, 1, 60.0, 1))
            .sum();
        assert!((58..=62).contains(&called), "{called}");
    }
}
