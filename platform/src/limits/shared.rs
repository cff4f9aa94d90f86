//! Rate limits across nodes, in Redis.

use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
use redis::RedisResult;

use super::Quota;
use crate::problem::{Kind, Problem};
use crate::redis::{Redis, Script};

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("take.lua")));

/// Requests to be counted in one cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Take {
    /// The cell.
    pub key: String,
    /// Its quota.
    pub quota: Quota,
    /// The number of requests.
    pub count: u32,
}

impl Take {
    /// Creates a count of zero.
    #[must_use]
    pub fn none(key: String, quota: Quota) -> Self {
        Self {
            key,
            quota,
            count: 0,
        }
    }
}

/// The outcome for one cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TakeOutcome {
    /// The number of requests that are allowed.
    pub count: u32,
    /// Time until the next request is allowed.
    pub wait: Duration,
}

/// Limits across nodes; made by [`Limits::shared`](super::Limits::shared).
#[derive(Debug, Clone)]
pub struct SharedLimits {
    redis: Redis,
    scale: f64,
}

impl SharedLimits {
    pub(super) fn new(redis: Redis, scale: f64) -> Self {
        Self { redis, scale }
    }

    /// Counts the requests of each cell as far as it has room. One script, whatever the number of
    /// cells, which share a hash tag.
    ///
    /// # Errors
    /// When Redis does not answer in time; the requests may then be counted.
    pub async fn take(&self, takes: &[Take], now: DateTime<Utc>) -> RedisResult<Vec<TakeOutcome>> {
        let mut call = TAKE.arg(now.timestamp_micros());
        for take in takes {
            let burst = take.quota.scaled(self.scale).burst;
            let step = (take.quota.per / burst).max(Duration::from_micros(1));
            let whole = step * burst;
            call.key(&take.key);
            call.arg(micros(step)).arg(micros(whole)).arg(take.count);
        }
        let answer: Vec<u64> = call.invoke_async(&mut self.redis.clone()).await?;
        let taken = answer.chunks_exact(2).map(|pair| TakeOutcome {
            count: u32::try_from(pair[0]).unwrap_or(u32::MAX),
            wait: Duration::from_micros(pair[1]),
        });
        Ok(taken.collect())
    }

    /// Returns the problem of a refused request, with `Retry-After`.
    #[must_use]
    pub fn refusal(wait: Duration) -> Problem {
        Problem::new(
            Kind::RateLimited,
            "Too many requests; wait as long as Retry-After says.",
        )
        .retry_after(wait)
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
