//! Moving one sale's cursor: one script, which checks the epoch and moves in one step.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use domain::EventId;
use domain::queue::{SaleKeys, Snapshot};
use domain::sale::SaleSettings;
use platform::redis::{AsyncCommands, Redis, Script};
use redis::RedisResult;

use super::ReleaseError;

static TICK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("tick.lua")));
static WRITE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("write.lua")));

/// The cursors of a namespace.
#[derive(Debug)]
pub(super) struct Cursor {
    redis: Redis,
    namespace: String,
}

/// What became of a tick.
#[derive(Debug)]
pub(super) enum Ticked {
    /// The sale was moved.
    Moved(Moved),
    /// A leader with this, later, epoch has moved the sale.
    Fenced(i64),
}

/// A sale after a tick.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) joined: i64,
    pub(super) cursor: i64,
    pub(super) missed_below: i64,
    /// How many places have left in all.
    pub(super) left: i64,
    /// How many of those the cursor has not reached.
    left_waiting: i64,
    pub(super) shopping: i64,
    pub(super) claimed_last_minute: i64,
    pub(super) called: u32,
}

impl Moved {
    /// How many present places the cursor has not reached.
    pub(super) fn waiting(&self) -> i64 {
        (self.joined - self.cursor - self.left_waiting).max(0)
    }
}

impl Cursor {
    pub(super) fn new(redis: Redis, namespace: &str) -> Self {
        Self {
            redis,
            namespace: namespace.to_owned(),
        }
    }

    /// Calls up to `calls` places.
    pub(super) async fn tick(
        &self,
        epoch: i64,
        now: DateTime<Utc>,
        calls: u32,
        sale: &SaleSettings,
    ) -> RedisResult<Ticked> {
        let keys = self.keys(sale.event_id);
        let numbers: Vec<i64> = TICK
            .key(keys.fence())
            .key(keys.joined())
            .key(keys.cursor())
            .key(keys.missed_below())
            .key(keys.left())
            .key(keys.left_counts())
            .key(keys.claimed())
            .key(keys.calls())
            .key(keys.shopping())
            .key(keys.claims())
            .arg(epoch)
            .arg(now.timestamp_millis())
            .arg(calls)
            .arg(sale.shopper_cap)
            .arg(i64::from(sale.claim_window_seconds) * 1_000)
            .invoke_async(&mut self.redis.clone())
            .await?;
        Ok(match numbers[..] {
            [
                _,
                joined,
                cursor,
                missed_below,
                left,
                left_waiting,
                shopping,
                claimed_last_minute,
                called,
            ] => Ticked::Moved(Moved {
                joined,
                cursor,
                missed_below,
                left,
                left_waiting,
                shopping,
                claimed_last_minute,
                called: u32::try_from(called).unwrap_or(calls),
            }),
            [fence] => Ticked::Fenced(fence),
            _ => unreachable!("the script returns one number or nine"),
        })
    }

    /// The snapshot that was written last, by whichever leader.
    pub(super) async fn written(
        &self,
        event_id: EventId,
    ) -> Result<Option<Snapshot>, ReleaseError> {
        let key = self.keys(event_id).snapshot();
        let json: Option<Vec<u8>> = self.redis.clone().get(key).await?;
        Ok(json.map(|json| serde_json::from_slice(&json)).transpose()?)
    }

    /// Writes a snapshot; `false` when a later leader has acted on the sale.
    pub(super) async fn write(
        &self,
        epoch: i64,
        snapshot: &Snapshot,
    ) -> Result<bool, ReleaseError> {
        let keys = self.keys(snapshot.event_id);
        let json = serde_json::to_vec(snapshot)?;
        let mut redis = self.redis.clone();
        let mut write = WRITE.key(keys.fence());
        write.key(keys.snapshot()).arg(epoch).arg(json);
        Ok(write.invoke_async(&mut redis).await?)
    }

    fn keys(&self, event_id: EventId) -> SaleKeys {
        SaleKeys::new(&self.namespace, event_id)
    }
}
