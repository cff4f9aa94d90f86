//! Limits that hold across nodes, in Redis.

use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
use redis::RedisResult;

use super::Quota;
use crate::problem::{Kind, Problem};
use crate::redis::{Redis, Script};

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("take.lua")));

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

    /// Counts one request in each of `cells`, keys that share a hash tag, or in none when one of
    /// them is full: then answers how long to wait. One script, whatever the number of callers.
    ///
    /// # Errors
    /// When Redis does not answer in time; the request may then be counted.
    pub async fn take(
        &self,
        cells: &[(String, Quota)],
        now: DateTime<Utc>,
    ) -> RedisResult<Option<Duration>> {
        let mut call = TAKE.arg(now.timestamp_micros());
        for (key, quota) in cells {
            let burst = quota.scaled(self.scale).burst;
            let step = (quota.per / burst).max(Duration::from_micros(1));
            let whole = step * burst;
            call.key(key);
            call.arg(micros(step)).arg(micros(whole));
        }
        let wait: u64 = call.invoke_async(&mut self.redis.clone()).await?;
        Ok((wait > 0).then(|| Duration::from_micros(wait)))
    }

    /// As [`take`](Self::take); a full cell is a refusal.
    ///
    /// # Errors
    /// `rate-limited`, or `overloaded` when Redis does not answer in time.
    pub async fn check(
        &self,
        cells: &[(String, Quota)],
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        match self.take(cells, now).await? {
            None => Ok(()),
            Some(wait) => Err(Problem::new(
                Kind::RateLimited,
                "Too many requests; wait as long as Retry-After says.",
            )
            .retry_after(wait)),
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
