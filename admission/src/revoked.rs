//! Passes that were revoked or given back before their end. Each node keeps them in memory and
//! reads new ones four times a second, so that checking a pass needs no lookup.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::queue::SharedKeys;
use domain::token::LEEWAY_SECONDS;
use platform::redis::{Redis, cmd};
use redis::RedisResult;
use tokio::time::MissedTickBehavior;

const READ_PERIOD: Duration = Duration::from_millis(250);
const READ_COUNT: usize = 1_000;
/// Longer than any pass lasts; entries older than this name passes that have ended.
const KEPT: TimeDelta = TimeDelta::hours(3);
/// What a stream is read from at first: everything.
const BEGINNING: &str = "-";

/// The revoked passes that have not ended.
pub(crate) struct Revoked {
    redis: Redis,
    key: String,
    /// Pass id → its end, Unix seconds.
    ends: RwLock<HashMap<String, i64>>,
    /// Where the stream is read on.
    from: Mutex<String>,
}

impl Revoked {
    pub(crate) fn new(redis: Redis, namespace: &str) -> Self {
        Self {
            redis,
            key: SharedKeys::new(namespace).revoked(),
            ends: RwLock::default(),
            from: Mutex::new(BEGINNING.to_owned()),
        }
    }

    /// Whether the pass with this id is refused.
    pub(crate) fn contains(&self, jti: &str) -> bool {
        self.ends
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(jti)
    }

    /// Revokes a pass: here at once, on other nodes when they read next.
    pub(crate) async fn add(&self, jti: &str, exp: i64, now: DateTime<Utc>) -> RedisResult<()> {
        let _: String = cmd("XADD")
            .arg(&self.key)
            .arg("MINID")
            .arg("~")
            .arg((now - KEPT).timestamp_millis())
            .arg("*")
            .arg("jti")
            .arg(jti)
            .arg("exp")
            .arg(exp)
            .query_async(&mut self.redis.clone())
            .await?;
        self.remember(jti, exp);
        Ok(())
    }

    /// Reads new revocations, again and again, until dropped.
    pub(crate) async fn follow(&self) {
        let mut ticks = tokio::time::interval(READ_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(error) = self.read_on().await {
                tracing::warn!(%error, "revoked passes were not read");
            }
        }
    }

    /// Forgets passes that have ended by themselves.
    pub(crate) fn forget_ended(&self, now: DateTime<Utc>) {
        let now = now.timestamp() - LEEWAY_SECONDS.cast_signed();
        let mut ends = self.ends.write().unwrap_or_else(PoisonError::into_inner);
        ends.retain(|_, end| *end > now);
    }

    async fn read_on(&self) -> RedisResult<()> {
        loop {
            let from = self
                .from
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            let entries: Vec<(String, HashMap<String, String>)> = cmd("XRANGE")
                .arg(&self.key)
                .arg(from)
                .arg("+")
                .arg("COUNT")
                .arg(READ_COUNT)
                .query_async(&mut self.redis.clone())
                .await?;
            let Some((last, _)) = entries.last() else {
                return Ok(());
            };
            *self.from.lock().unwrap_or_else(PoisonError::into_inner) = format!("({last}");
            let is_all = entries.len() < READ_COUNT;
            for (_, fields) in &entries {
                let exp = fields.get("exp").and_then(|exp| exp.parse().ok());
                if let (Some(jti), Some(exp)) = (fields.get("jti"), exp) {
                    self.remember(jti, exp);
                }
            }
            if is_all {
                return Ok(());
            }
        }
    }

    fn remember(&self, jti: &str, exp: i64) {
        let mut ends = self.ends.write().unwrap_or_else(PoisonError::into_inner);
        ends.insert(jti.to_owned(), exp);
    }
}
