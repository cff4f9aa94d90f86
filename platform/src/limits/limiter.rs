//! One rate limit (GCRA), with a cell per key.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use axum::http::HeaderValue;
use domain::AccountId;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::{DashMapStateStore, ShrinkableKeyedStateStore};
use governor::{Quota as Rate, RateLimiter};

use super::{Quota, subscriber};

/// Most keys that have a cell of their own. Above it, new keys share a fixed number of cells, so
/// that a flood of addresses costs accuracy and not memory.
const MAX_KEYS: usize = 200_000;
/// A shared cell allows so many times the quota, so that bystanders of a flood are not refused.
const SHARED_FACTOR: u32 = 64;
/// The number of shared cells is that of all `u16`; how often the keys are counted.
const COUNT_EVERY: u32 = 4_096;

/// The owner of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    Account(i64),
    /// The network of a client, as [`subscriber`] returns it.
    Address(IpAddr),
    Shared(u16),
}

impl From<AccountId> for Subject {
    fn from(account_id: AccountId) -> Self {
        Self::Account(account_id.0)
    }
}

impl From<IpAddr> for Subject {
    fn from(address: IpAddr) -> Self {
        Self::Address(subscriber(address))
    }
}

/// The outcome of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    /// Whether the request is allowed.
    pub(super) allowed: bool,
    /// Requests that may follow at once.
    pub(super) remaining: u32,
    /// Time until the quota is full again or, when refused, until the next request is allowed.
    pub(super) reset: Duration,
}

/// The states of all cells, which show whether a key has one.
#[derive(Clone, Default)]
struct States(Arc<DashMapStateStore<Subject>>);

impl StateStore for States {
    type Key = Subject;

    fn measure_and_replace<T, F, E>(&self, key: &Subject, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(key, measure)
    }
}

impl ShrinkableKeyedStateStore<Subject> for States {
    fn retain_recent(&self, drop_below: Nanos) {
        ShrinkableKeyedStateStore::retain_recent(&*self.0, drop_below);
    }

    fn shrink_to_fit(&self) {
        ShrinkableKeyedStateStore::shrink_to_fit(&*self.0);
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

type Cells = RateLimiter<Subject, States, DefaultClock, StateInformationMiddleware>;

pub(super) struct Limiter {
    name: &'static str,
    burst: u32,
    /// Time in which one request comes back.
    step: Duration,
    policy: HeaderValue,
    cells: Cells,
    /// Those of `cells`.
    states: States,
    shared: Cells,
    clock: DefaultClock,
    hasher: RandomState,
    checks: AtomicU32,
    is_full: AtomicBool,
}

impl Limiter {
    pub(super) fn new(name: &'static str, quota: Quota) -> Self {
        let burst = NonZeroU32::new(quota.burst).unwrap_or(NonZeroU32::MIN);
        let step = (quota.per / burst.get()).max(Duration::from_nanos(1));
        let rate = Rate::with_period(step)
            .expect("the step is not zero")
            .allow_burst(burst);
        let shared = Rate::with_period((step / SHARED_FACTOR).max(Duration::from_nanos(1)))
            .expect("the step is not zero")
            .allow_burst(burst.saturating_mul(NonZeroU32::MIN.saturating_add(SHARED_FACTOR - 1)));
        let seconds = quota.per.as_secs().max(1);
        let states = States::default();
        let clock = DefaultClock::default();
        Self {
            name,
            burst: burst.get(),
            step,
            policy: HeaderValue::try_from(format!("\"{name}\";q={burst};w={seconds}"))
                .expect("names of limits are plain words"),
            cells: RateLimiter::new(rate, states.clone(), clock.clone()),
            states,
            shared: RateLimiter::new(shared, States::default(), clock.clone()),
            clock,
            hasher: RandomState::new(),
            checks: AtomicU32::new(0),
            is_full: AtomicBool::new(false),
        }
    }

    /// Counts one request of `subject`.
    pub(super) fn check(&self, subject: Subject) -> Allowance {
        if self.checks.fetch_add(1, Ordering::Relaxed) % COUNT_EVERY == COUNT_EVERY - 1 {
            self.drop_keys_when_full();
        }
        let (cells, subject) = self.cell_of(subject);
        match cells.check_key(&subject) {
            Ok(state) => {
                let remaining = state.remaining_burst_capacity().min(self.burst);
                let used = self.burst - remaining;
                Allowance {
                    allowed: true,
                    remaining,
                    reset: self.step * used,
                }
            }
            Err(refusal) => Allowance {
                allowed: false,
                remaining: 0,
                reset: refusal.wait_time_from(self.clock.now()),
            },
        }
    }

    /// `RateLimit-Policy`.
    pub(super) fn policy(&self) -> HeaderValue {
        self.policy.clone()
    }

    /// `RateLimit`.
    pub(super) fn state(&self, allowance: Allowance) -> HeaderValue {
        let Allowance {
            remaining, reset, ..
        } = allowance;
        let seconds = reset.as_secs() + u64::from(reset.subsec_nanos() > 0);
        HeaderValue::try_from(format!("\"{}\";r={remaining};t={seconds}", self.name))
            .expect("names of limits are plain words")
    }

    pub(super) fn drop_idle_keys(&self) {
        self.cells.retain_recent();
        self.cells.shrink_to_fit();
        self.shared.retain_recent();
        self.shared.shrink_to_fit();
        self.is_full
            .store(self.cells.len() >= MAX_KEYS, Ordering::Relaxed);
    }

    fn drop_keys_when_full(&self) {
        if self.cells.len() >= MAX_KEYS {
            self.drop_idle_keys();
        }
    }

    /// Returns the cell of a key, which it has until its quota is full again: a flood of others
    /// does not lift its limit.
    fn cell_of(&self, subject: Subject) -> (&Cells, Subject) {
        if !self.is_full.load(Ordering::Relaxed) || self.states.0.contains_key(&subject) {
            return (&self.cells, subject);
        }
        let [low, high, ..] = self.hasher.hash_one(subject).to_le_bytes();
        let subject = Subject::Shared(u16::from_le_bytes([low, high]));
        (&self.shared, subject)
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(burst: u32) -> Limiter {
        Limiter::new(
            "join",
            Quota {
                burst,
                per: Duration::from_secs(3_600),
            },
        )
    }

    fn address(text: &str) -> Subject {
        Subject::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn the_burst_goes_through_and_the_next_is_refused() {
        let limiter = limiter(2);
        assert_eq!(limiter.check(address("192.0.2.1")).remaining, 1);
        assert!(limiter.check(address("192.0.2.1")).allowed);
        let refused = limiter.check(address("192.0.2.1"));
        assert!(!refused.allowed);
        assert!(refused.reset > Duration::from_secs(1_700), "{refused:?}");
        assert!(limiter.check(address("192.0.2.2")).allowed);
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_together() {
        let limiter = limiter(1);
        assert!(limiter.check(address("2001:db8::1")).allowed);
        assert!(!limiter.check(address("2001:db8::2")).allowed);
        assert!(limiter.check(address("2001:db8:0:1::1")).allowed);
        assert!(limiter.check(address("192.0.2.1")).allowed);
        assert!(!limiter.check(address("::ffff:192.0.2.1")).allowed);
    }

    #[test]
    fn a_flood_of_keys_does_not_take_more_memory() {
        let limiter = limiter(2);
        for account in 0..400_000 {
            limiter.check(Subject::Account(account));
        }
        let most = MAX_KEYS + usize::from(u16::MAX) + 1 + COUNT_EVERY as usize;
        let keys = limiter.cells.len() + limiter.shared.len();
        assert!(keys <= most, "{keys}");
    }

    #[test]
    fn a_flood_of_keys_does_not_lift_the_limit_of_another() {
        let limiter = limiter(2);
        let limited = Subject::Account(-1);
        while limiter.check(limited).allowed {}
        for account in 0..400_000 {
            limiter.check(Subject::Account(account));
        }
        limiter.drop_idle_keys();
        assert!(!limiter.check(limited).allowed);
    }

    #[test]
    fn bystanders_of_a_flood_of_keys_are_not_refused() {
        let limiter = limiter(2);
        for account in 0..1_000_000 {
            limiter.check(Subject::Account(account));
        }
        let refused = (0..1_000)
            .filter(|n| {
                !limiter
                    .check(address(&format!("192.0.{}.{}", n / 250, n % 250)))
                    .allowed
            })
            .count();
        assert_eq!(refused, 0);
    }

    #[test]
    fn keys_that_have_their_quota_back_are_dropped() {
        let limiter = Limiter::new(
            "fast",
            Quota {
                burst: 1,
                per: Duration::from_nanos(1),
            },
        );
        limiter.check(Subject::Account(1));
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !limiter.cells.is_empty() && std::time::Instant::now() < deadline {
            limiter.drop_idle_keys();
        }
        assert!(limiter.cells.is_empty());
    }
}
