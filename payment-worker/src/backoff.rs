//! Exponential backoff with jitter.

use std::time::Duration;

use uuid::Uuid;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(60);

/// Half a second after the first try, doubled by each further one, 60 s at most. Up to half is
/// taken off as jitter, derived from `id` and the try, so that what failed together is not retried
/// together.
#[must_use]
pub(crate) fn backoff(id: Uuid, tries: i32) -> Duration {
    let doublings = u32::try_from(tries.saturating_sub(1)).unwrap_or(0);
    let full = FIRST
        .saturating_mul(2_u32.saturating_pow(doublings))
        .min(LONGEST);
    let [.., random] = id.into_bytes();
    let spread = u32::from(random.wrapping_add(doublings.to_le_bytes()[0].wrapping_mul(97)));
    full - full * spread / (2 * 256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_keep_at_least_half() {
        let id = Uuid::from_u128(0xff);
        for (tries, full) in [
            (1, 500),
            (2, 1_000),
            (4, 4_000),
            (30, 60_000),
            (i32::MAX, 60_000),
        ] {
            let pause = backoff(id, tries).as_millis();
            assert!(pause * 2 >= full && pause <= full, "{tries}: {pause}");
        }
    }

    #[test]
    fn what_failed_together_is_not_repeated_together() {
        assert_ne!(
            backoff(Uuid::from_u128(1), 5),
            backoff(Uuid::from_u128(2), 5)
        );
    }
}
