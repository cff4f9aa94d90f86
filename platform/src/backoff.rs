//! Exponential backoff, with jitter where many retry at once.

use std::time::Duration;

/// Pauses that double with each failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Creates a backoff from `first` to `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// Returns the pause after so many failures, from 1.
    #[must_use]
    pub fn after(self, failures: u32) -> Duration {
        let factor = 2_u32.saturating_pow(failures.saturating_sub(1));
        self.first.saturating_mul(factor).min(self.longest)
    }

    /// Returns the same pause with up to half of it taken off as jitter, derived from `id` and the
    /// number of failures: what failed together is not repeated together.
    #[must_use]
    pub fn jittered(self, failures: u32, id: uuid::Uuid) -> Duration {
        let full = self.after(failures);
        let [.., random] = id.into_bytes();
        let turn = failures.saturating_sub(1).to_le_bytes()[0];
        let spread = u32::from(random.wrapping_add(turn.wrapping_mul(97)));
        full - full * spread / (2 * 256)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));

    #[test]
    fn pauses_double_up_to_the_longest_and_jitter_keeps_at_least_half() {
        let id = Uuid::from_u128(0xff);
        for (failures, full) in [
            (0, 500),
            (1, 500),
            (2, 1_000),
            (4, 4_000),
            (30, 60_000),
            (u32::MAX, 60_000),
        ] {
            assert_eq!(BACKOFF.after(failures).as_millis(), full);
            let pause = BACKOFF.jittered(failures, id).as_millis();
            assert!(pause * 2 >= full && pause <= full, "{failures}: {pause}");
        }
    }

    #[test]
    fn what_failed_together_is_not_repeated_together() {
        let pause = |id| BACKOFF.jittered(5, Uuid::from_u128(id));
        assert_ne!(pause(1), pause(2));
    }
}
