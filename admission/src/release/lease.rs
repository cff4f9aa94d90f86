//! Who is the leader.

use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::queue::SharedKeys;
use platform::redis::{Redis, Script};
use redis::RedisResult;

/// A leader that does not renew its lease for so long is replaced.
const LEASE: Duration = Duration::from_secs(2);

static HOLD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lease.lua")));
static RESIGN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("resign.lua")));

/// One node's part in the lease.
#[derive(Debug)]
pub(super) struct Lease {
    redis: Redis,
    leader: String,
    epoch: String,
    node: String,
    /// A fence this node was stopped by.
    exceed: i64,
}

impl Lease {
    pub(super) fn new(redis: Redis, keys: &SharedKeys, node: &str) -> Self {
        let (leader, epoch) = (keys.leader(), keys.epoch());
        Self {
            redis,
            leader,
            epoch,
            node: node.to_owned(),
            exceed: 0,
        }
    }

    /// The epoch, if this node has or gets the lease.
    pub(super) async fn hold(&self, now: DateTime<Utc>) -> RedisResult<Option<i64>> {
        let epoch: i64 = HOLD
            .key(&self.leader)
            .key(&self.epoch)
            .arg(&self.node)
            .arg(u64::try_from(LEASE.as_millis()).expect("a lease is seconds"))
            .arg(now.timestamp_millis())
            .arg(self.exceed)
            .invoke_async(&mut self.redis.clone())
            .await?;
        Ok((epoch > 0).then_some(epoch))
    }

    /// A sale was moved by a leader with the epoch `fence`. If this node still has the lease, the
    /// epochs were forgotten; its next one is higher.
    pub(super) fn must_exceed(&mut self, fence: i64) {
        self.exceed = self.exceed.max(fence);
    }

    pub(super) async fn give_up(&self) -> RedisResult<()> {
        let mut redis = self.redis.clone();
        RESIGN
            .key(&self.leader)
            .arg(&self.node)
            .invoke_async(&mut redis)
            .await
    }
}
