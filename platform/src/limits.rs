//! Rate limits by account or address. Those of a node protect the process and cost no call;
//! [`SharedLimits`] hold across nodes.

mod group;
mod layer;
mod limiter;
mod shared;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use limiter::Limiter;

pub use group::{AddressGroup, subscriber};
pub use layer::LimitLayer;
pub use shared::{SharedLimits, Take, TakeOutcome};

use crate::redis::Redis;
use crate::sync::MutexExt as _;

/// Interval at which idle keys are evicted.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// A token bucket: `burst` requests at once, refilled over `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Requests at once, at least 1.
    pub burst: u32,
    /// Time in which the bucket refills.
    pub per: Duration,
}

impl Quota {
    /// `burst` requests at once, refilled over a minute.
    #[must_use]
    pub const fn per_minute(burst: u32) -> Self {
        Self {
            burst,
            per: Duration::from_secs(60),
        }
    }

    fn scaled(self, scale: f64) -> Self {
        assert!(
            self.burst > 0 && !self.per.is_zero(),
            "a quota allows something"
        );
        let burst = (f64::from(self.burst) * scale).clamp(1.0, f64::from(u32::MAX));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to the range of u32"
        )]
        let burst = burst as u32;
        Self { burst, ..self }
    }
}

/// The subject that requests are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// The signed-in account, or the visitor of a queue; the address of callers who are neither.
    Account,
    /// The signed-in account, or the visitor of a queue; others are not counted.
    AccountAlone,
    /// The address; IPv6 by its /64, which one customer of a provider has.
    Address,
}

/// Creates limits, and evicts their idle keys.
#[derive(Debug, Clone)]
pub struct Limits {
    scale: f64,
    limiters: Arc<Mutex<Vec<Arc<Limiter>>>>,
}

impl Limits {
    /// Limits whose bursts are `scale` times what the code asks for, at least 1.
    #[must_use]
    pub fn new(scale: f64) -> Self {
        Self {
            scale,
            limiters: Arc::default(),
        }
    }

    /// A layer that counts requests by `key` and refuses those over `quota`. `name` appears in
    /// the `RateLimit` headers; routes with the same layer (cloned) share the quota.
    ///
    /// # Panics
    /// When the quota's `burst` or `per` is zero.
    #[must_use]
    pub fn layer(&self, name: &'static str, quota: Quota, key: Key) -> LimitLayer {
        let limiter = Arc::new(Limiter::new(name, quota.scaled(self.scale)));
        self.limiters.lock_unpoisoned().push(limiter.clone());
        LimitLayer::new(limiter, key)
    }

    /// Limits across nodes, to the same scale.
    #[must_use]
    pub fn shared(&self, redis: Redis) -> SharedLimits {
        SharedLimits::new(redis, self.scale)
    }

    /// Evicts keys whose quota is full again, at an interval; runs for ever.
    pub async fn sweep(&self) {
        loop {
            tokio::time::sleep(SWEEP_INTERVAL).await;
            for limiter in self.limiters.lock_unpoisoned().iter() {
                limiter.drop_idle_keys();
            }
        }
    }
}
