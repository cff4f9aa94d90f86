//! Stripe's rate limits, as token buckets.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use tokio::time::Instant;

use super::operation::Operation;

/// Requests per second allowed with the secret key. A bucket holds one second's worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimits {
    /// Limit over all endpoints.
    pub all: u32,
    /// Limit per endpoint.
    pub each: u32,
}

/// Counts of requests with the secret key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Requests accepted.
    pub accepted: u64,
    /// Requests refused with 429 over a limit.
    pub limited: u64,
}

/// The active limits; none initially.
#[derive(Debug, Default)]
pub(crate) struct Limits(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    limits: Option<RateLimits>,
    all: Option<Bucket>,
    each: HashMap<Operation, Bucket>,
    requests: Requests,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: u32, now: Instant) -> Self {
        Self {
            tokens: f64::from(rate),
            at: now,
        }
    }

    fn refill(&mut self, rate: u32, now: Instant) {
        let grown = now.saturating_duration_since(self.at).as_secs_f64() * f64::from(rate);
        self.tokens = (self.tokens + grown).min(f64::from(rate));
        self.at = now;
    }
}

impl Limits {
    pub(crate) fn set(&self, limits: Option<RateLimits>) {
        let mut state = self.lock();
        state.limits = limits;
        state.all = None;
        state.each.clear();
    }

    pub(crate) fn requests(&self) -> Requests {
        self.lock().requests
    }

    /// Takes a token for a request at `now`; `false` when a bucket is empty.
    pub(crate) fn take(&self, operation: Operation, now: Instant) -> bool {
        let mut state = self.lock();
        let passes = state
            .limits
            .is_none_or(|limits| state.draw(limits, operation, now));
        if passes {
            state.requests.accepted += 1;
        } else {
            state.requests.limited += 1;
        }
        passes
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .expect("nothing panics while the limits are locked")
    }
}

impl State {
    fn draw(&mut self, limits: RateLimits, operation: Operation, now: Instant) -> bool {
        let all = self
            .all
            .get_or_insert_with(|| Bucket::full(limits.all, now));
        let each = self.each.entry(operation);
        let each = each.or_insert_with(|| Bucket::full(limits.each, now));
        all.refill(limits.all, now);
        each.refill(limits.each, now);
        let passes = all.tokens >= 1.0 && each.tokens >= 1.0;
        if passes {
            all.tokens -= 1.0;
            each.tokens -= 1.0;
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_second_refills_what_a_second_allows() {
        let limits = Limits::default();
        limits.set(Some(RateLimits { all: 30, each: 10 }));
        let mut now = Instant::now();
        let passed = |operation, now| (0..50).filter(|_| limits.take(operation, now)).count();
        assert_eq!(passed(Operation::CreateRefund, now), 10);
        assert_eq!(passed(Operation::CapturePaymentIntent, now), 10);
        assert_eq!(passed(Operation::CancelPaymentIntent, now), 10);
        assert_eq!(
            passed(Operation::CreatePaymentIntent, now),
            0,
            "all is used up"
        );
        now += Duration::from_secs(1);
        assert_eq!(passed(Operation::CreatePaymentIntent, now), 10);
        let requests = limits.requests();
        assert_eq!((requests.accepted, requests.limited), (40, 210));
    }
}
