//! Token bucket that bounds messages per second.

use std::time::Duration;

use tokio::time::Instant;

/// A bucket that holds the tokens of one second. May run into debt for messages without a row.
pub(super) struct TokenBucket {
    /// `None` for no limit.
    interval: Option<Duration>,
    /// The time at which the bucket was, or will be, empty.
    empty_at: Instant,
}

const BURST: Duration = Duration::from_secs(1);

impl TokenBucket {
    /// Starts with a full bucket; `None` disables the limit.
    pub(super) fn new(per_second: Option<u32>, now: Instant) -> Self {
        Self {
            interval: per_second.map(|rate| BURST / rate.max(1)),
            empty_at: now.checked_sub(BURST).unwrap_or(now),
        }
    }

    /// Returns the number of tokens in the bucket.
    pub(super) fn available(&self, now: Instant) -> usize {
        let Some(interval) = self.interval else {
            return usize::MAX;
        };
        let saved = now.saturating_duration_since(self.empty_at).min(BURST);
        usize::try_from(saved.as_nanos() / interval.as_nanos().max(1)).unwrap_or(usize::MAX)
    }

    /// Returns the time of the next token; valid while none is available.
    pub(super) fn next(&self) -> Instant {
        self.empty_at + self.interval.unwrap_or_default()
    }

    /// Removes one token, on credit if need be: the debt may be up to one second's worth.
    ///
    /// # Errors
    /// The time at which the debt is small enough.
    pub(super) fn borrow(&mut self, now: Instant) -> Result<(), Instant> {
        let Some(interval) = self.interval else {
            return Ok(());
        };
        let full = now.checked_sub(BURST).unwrap_or(now);
        let empty_at = self.empty_at.max(full) + interval;
        if empty_at > now + BURST {
            return Err(empty_at - BURST);
        }
        self.empty_at = empty_at;
        Ok(())
    }

    /// Removes `messages` tokens; the balance may become negative.
    pub(super) fn spend(&mut self, messages: usize, now: Instant) {
        let Some(interval) = self.interval else {
            return;
        };
        let full = now.checked_sub(BURST).unwrap_or(now);
        let cost = interval.saturating_mul(u32::try_from(messages).unwrap_or(u32::MAX));
        self.empty_at = self.empty_at.max(full) + cost;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holds_no_more_than_the_rate_after_the_first_burst() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(Some(10), start);
        let mut sent = 0;
        for tenth in 0..=30_u32 {
            let now = start + Duration::from_millis(100) * tenth;
            let messages = bucket.available(now);
            bucket.spend(messages, now);
            sent += messages;
        }
        assert!(
            (38..=40).contains(&sent),
            "10 at once and 10 a second: {sent}"
        );
        let now = start + Duration::from_secs(3);
        assert_eq!(bucket.available(now), 0);
        assert!(bucket.available(bucket.next()) >= 1);
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let bucket = TokenBucket::new(None, Instant::now());
        assert_eq!(bucket.available(Instant::now()), usize::MAX);
    }
}
