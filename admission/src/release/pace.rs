//! How many places may be called: the rate, without credit for times when nobody waited.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::TICK;

/// A stalled loop makes up for this much at most.
const LONGEST_STEP: Duration = Duration::from_secs(1);
/// What one call costs: one per minute earns one unit a millisecond, so nothing is rounded.
const CALL: u64 = 60_000;

/// The calls one sale has a right to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pace {
    credit: u64,
    granted_at: Option<DateTime<Utc>>,
    is_busy: bool,
}

impl Pace {
    /// How many places may be called at `now`. An empty line has credit for one place and one
    /// tick: its first visitor does not wait, and a crowd does not get in at once. A rate of 0
    /// grants nothing and earns nothing.
    pub(super) fn grant(&mut self, now: DateTime<Utc>, rate_per_minute: u32) -> u32 {
        let elapsed = match self.granted_at {
            Some(then) => (now - then).to_std().unwrap_or_default(),
            None => {
                self.credit = CALL;
                Duration::ZERO
            }
        };
        self.granted_at = Some(now);
        if rate_per_minute == 0 {
            return 0;
        }
        let longest = if self.is_busy { LONGEST_STEP } else { TICK };
        let millis = u64::try_from(elapsed.min(longest).as_millis()).expect("a second at most");
        self.credit += u64::from(rate_per_minute) * millis;
        u32::try_from(self.credit / CALL).unwrap_or(u32::MAX)
    }

    /// `called` places were called; `is_busy` says whether more wait. What was granted and not
    /// used is gone, but for one place.
    pub(super) fn spend(&mut self, called: u32, is_busy: bool) {
        self.credit = self
            .credit
            .saturating_sub(u64::from(called) * CALL)
            .min(CALL);
        self.is_busy = is_busy;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn at(millis: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::milliseconds(millis)
    }

    /// Calls in `ticks` ticks after `from`, while `waiting` people wait.
    fn run(pace: &mut Pace, from: i64, ticks: i64, rate: u32, waiting: u32) -> u32 {
        let mut left = waiting;
        for tick in 1..=ticks {
            let called = pace.grant(at(from + tick * 250), rate).min(left);
            left -= called;
            pace.spend(called, left > 0);
        }
        waiting - left
    }

    #[test]
    fn a_busy_line_is_called_at_the_rate_to_the_fraction() {
        let mut pace = Pace::default();
        assert_eq!(run(&mut pace, 0, 1, 60, 10), 1);
        assert_eq!(run(&mut pace, 250, 240, 61, 1_000), 61);
    }

    #[test]
    fn after_an_hour_of_nobody_a_crowd_gets_one_tick_and_one() {
        let mut pace = Pace::default();
        run(&mut pace, 0, 14_400, 600, 0);
        assert_eq!(run(&mut pace, 3_600_000, 1, 600, 1_000), 3);
        let mut slow = Pace::default();
        run(&mut slow, 0, 1, 600, 0);
        assert_eq!(run(&mut slow, 3_600_000, 1, 600, 1_000), 3);
    }

    #[test]
    fn a_trickle_of_arrivals_is_held_to_the_rate() {
        let mut pace = Pace::default();
        let called: u32 = (0..240)
            .map(|tick| run(&mut pace, tick * 250, 1, 60, 1))
            .sum();
        assert!((60..=61).contains(&called), "{called}");
    }

    #[test]
    fn a_pause_banks_nothing() {
        let mut pace = Pace::default();
        run(&mut pace, 0, 4, 600, 1_000);
        run(&mut pace, 1_000, 1_000, 0, 1_000);
        assert!(run(&mut pace, 251_000, 1, 600, 1_000) <= 3);
    }

    #[test]
    fn a_new_rate_acts_at_the_next_tick() {
        let mut pace = Pace::default();
        run(&mut pace, 0, 4, 60, 1_000);
        assert!(run(&mut pace, 1_000, 4, 6_000, 1_000) >= 100);
    }
}
