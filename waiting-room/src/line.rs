//! The line itself, in Redis. Each operation is one script or one pipeline of constant cost.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use domain::queue::{PlaceState, SaleKeys, SharedKeys};
use domain::{AccountId, EventId, Place};
use platform::redis::{AsyncCommands, Redis, Script, pipe};
use redis::RedisResult;

static JOIN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("line/join.lua")));
static LEAVE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("line/leave.lua")));

/// The lines of all sales of a namespace.
#[derive(Debug, Clone)]
pub struct Line {
    redis: Redis,
    namespace: String,
}

/// A place in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// The place.
    pub place: Place,
    /// Whether it was given just now.
    pub is_new: bool,
}

/// What became of the wish to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// The place is out of the line.
    Left,
    /// The place has claimed its pass, so it is in the line no more.
    Claimed,
}

impl Line {
    /// The lines of `namespace`.
    #[must_use]
    pub fn new(redis: Redis, namespace: &str) -> Self {
        Self {
            redis,
            namespace: namespace.to_owned(),
        }
    }

    /// The place of `account_id`: the one it has, or a new one at the end when it has none or the
    /// one it had was left, missed or used up.
    ///
    /// # Errors
    /// When Redis does not answer in time; the place may then be given, and a repeat returns it.
    pub async fn join(
        &self,
        event_id: EventId,
        account_id: AccountId,
        now: DateTime<Utc>,
    ) -> RedisResult<Joined> {
        let keys = self.keys(event_id);
        let (place, is_new): (i64, bool) = JOIN
            .key(keys.joined())
            .key(keys.places())
            .key(keys.passes())
            .key(keys.missed_below())
            .arg(account_id.0)
            .arg(now.timestamp())
            .invoke_async(&mut self.redis.clone())
            .await?;
        Ok(Joined {
            place: Place(place),
            is_new,
        })
    }

    /// Tells the release leader that the idle line of `event_id` is idle no more. If that fails,
    /// the leader notices by itself a little later.
    pub async fn wake(&self, event_id: EventId) {
        let key = SharedKeys::new(&self.namespace).woken();
        let added: RedisResult<()> = self.redis.clone().sadd(key, event_id.0).await;
        if let Err(error) = added {
            tracing::debug!(%event_id, %error, "the release leader was not woken");
        }
    }

    /// Takes `place` of `account_id` out of the line; a repeat changes nothing.
    ///
    /// # Errors
    /// When Redis does not answer in time; it may then be done, and can be repeated.
    pub async fn leave(
        &self,
        event_id: EventId,
        account_id: AccountId,
        place: Place,
    ) -> RedisResult<Leaving> {
        let keys = self.keys(event_id);
        let has_left: bool = LEAVE
            .key(keys.places())
            .key(keys.left())
            .key(keys.left_counts())
            .key(keys.passes())
            .key(keys.cursor())
            .arg(place.0)
            .arg(account_id.0)
            .invoke_async(&mut self.redis.clone())
            .await?;
        Ok(if has_left {
            Leaving::Left
        } else {
            Leaving::Claimed
        })
    }

    /// Where a place stands that has been called.
    ///
    /// # Errors
    /// When Redis does not answer in time.
    pub async fn standing(&self, event_id: EventId, place: Place) -> RedisResult<PlaceState> {
        let keys = self.keys(event_id);
        let (has_pass, has_left, missed_below): (bool, bool, Option<i64>) = pipe()
            .hexists(keys.passes(), place.0)
            .getbit(keys.left(), usize::try_from(place.0).unwrap_or(0))
            .get(keys.missed_below())
            .query_async(&mut self.redis.clone())
            .await?;
        Ok(if has_pass {
            PlaceState::Claimed
        } else if has_left {
            PlaceState::Left
        } else if place.0 <= missed_below.unwrap_or(0) {
            PlaceState::Missed
        } else {
            PlaceState::Ready
        })
    }

    fn keys(&self, event_id: EventId) -> SaleKeys {
        SaleKeys::new(&self.namespace, event_id)
    }
}
