//! Circuit breaker of one channel. While it is open, single messages probe the server.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use metrics::gauge;
use tokio::time::Instant;

use crate::notice::Channel;
use platform::sync::MutexExt as _;

/// Consecutive failures that open the breaker.
const FAILURES: u32 = 5;
/// Interval between two probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Counts consecutive failures that are not specific to one message.
pub(super) struct Breaker {
    channel: Channel,
    state: Mutex<BreakerState>,
}

enum BreakerState {
    Closed { failures: u32 },
    Open { since: Instant, probe_at: Instant },
}

/// Number of messages that may start.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Allowed {
    All,
    One,
    /// None before this instant.
    NotBefore(Instant),
}

impl Breaker {
    pub(super) fn closed(channel: Channel) -> Self {
        let breaker = Self {
            channel,
            state: Mutex::new(BreakerState::Closed { failures: 0 }),
        };
        breaker.show(false);
        breaker
    }

    pub(super) fn allowed(&self, now: Instant) -> Allowed {
        match *self.lock() {
            BreakerState::Closed { .. } => Allowed::All,
            BreakerState::Open { probe_at, .. } if probe_at <= now => Allowed::One,
            BreakerState::Open { probe_at, .. } => Allowed::NotBefore(probe_at),
        }
    }

    /// Schedules the next probe after [`PROBE_INTERVAL`]: one is starting, or none is due.
    pub(super) fn put_off_probe(&self, now: Instant) {
        self.set_probe(now + PROBE_INTERVAL);
    }

    /// Allows another probe at once, since the last one was settled without the server.
    pub(super) fn probe_again(&self, now: Instant) {
        self.set_probe(now);
    }

    fn set_probe(&self, at: Instant) {
        if let BreakerState::Open { probe_at, .. } = &mut *self.lock() {
            *probe_at = at;
        }
    }

    /// Closes the breaker: the server accepted a message, or refused it for reasons of its own.
    pub(super) fn succeeded(&self, now: Instant) {
        let before = std::mem::replace(&mut *self.lock(), BreakerState::Closed { failures: 0 });
        if let BreakerState::Open { since, .. } = before {
            self.show(false);
            let seconds = (now - since).as_secs();
            let channel = self.channel.as_str();
            tracing::info!(channel, seconds, "circuit breaker closed, sending resumed");
        }
    }

    /// Records a failure, and opens the breaker after [`FAILURES`] consecutive ones.
    pub(super) fn failed(&self, error: &str, now: Instant) {
        let mut state = self.lock();
        let BreakerState::Closed { failures } = &mut *state else {
            return;
        };
        *failures += 1;
        if *failures < FAILURES {
            return;
        }
        *state = BreakerState::Open {
            since: now,
            probe_at: now + PROBE_INTERVAL,
        };
        drop(state);
        self.show(true);
        let channel = self.channel.as_str();
        tracing::error!(channel, error, "circuit breaker opened, sending paused");
    }

    fn show(&self, is_open: bool) {
        let channel = self.channel.as_str();
        gauge!("notifier_breaker_open", "channel" => channel).set(f64::from(u8::from(is_open)));
    }

    fn lock(&self) -> MutexGuard<'_, BreakerState> {
        self.state.lock_unpoisoned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_opens_after_failures_in_a_row_and_closes_with_the_first_success() {
        let breaker = Breaker::closed(Channel::Email);
        let now = Instant::now();
        for _ in 1..FAILURES {
            breaker.failed("refused", now);
        }
        breaker.succeeded(now);
        for _ in 1..FAILURES {
            breaker.failed("refused", now);
        }
        assert_eq!(breaker.allowed(now), Allowed::All);
        breaker.failed("refused", now);
        let probe_at = now + PROBE_INTERVAL;
        assert_eq!(breaker.allowed(now), Allowed::NotBefore(probe_at));
        assert_eq!(breaker.allowed(probe_at), Allowed::One);
        breaker.put_off_probe(probe_at);
        let next = probe_at + PROBE_INTERVAL;
        assert_eq!(breaker.allowed(probe_at), Allowed::NotBefore(next));
        breaker.succeeded(next);
        assert_eq!(breaker.allowed(next), Allowed::All);
    }
}
