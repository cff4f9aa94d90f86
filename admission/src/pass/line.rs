//! Passes of a line, in Redis. Each operation is one script of constant cost, and the time is an
//! argument.

use std::sync::LazyLock;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::queue::SaleKeys;
use domain::sale::SaleSettings;
use domain::{AccountId, EventId, Place};
use platform::redis::{AsyncCommands, Redis, Script};
use redis::RedisResult;
use uuid::Uuid;

static CLAIM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("claim.lua")));
static FINISH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("finish.lua")));

/// The passes of a namespace.
#[derive(Debug, Clone)]
pub struct Passes {
    redis: Redis,
    namespace: String,
}

/// On what terms passes are given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Most claims in any 60 s.
    pub rate_per_minute: u32,
    /// Most running passes.
    pub shopper_cap: u32,
    /// How long a pass lasts.
    pub pass_seconds: u32,
}

impl From<&SaleSettings> for Terms {
    fn from(sale: &SaleSettings) -> Self {
        Self {
            rate_per_minute: sale.rate_per_minute,
            shopper_cap: sale.shopper_cap,
            pass_seconds: sale.pass_seconds,
        }
    }
}

/// A pass before it is signed. The same grant gives the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The pass's id.
    pub jti: String,
    /// When it was issued, Unix seconds.
    pub iat: i64,
    /// When it ends, Unix seconds.
    pub exp: i64,
}

impl Grant {
    /// Reads what the claim's script wrote.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(':');
        Some(Self {
            jti: parts.next()?.to_owned(),
            iat: parts.next()?.parse().ok()?,
            exp: parts.next()?.parse().ok()?,
        })
    }
}

/// What became of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The pass is given now.
    Granted(Grant),
    /// It was given before, and runs.
    Repeated(Grant),
    /// It was given before, and has ended or was given back.
    Over,
    /// The holder left the line.
    Left,
    /// So many places come first.
    NotCalled(i64),
    /// The claim window went by.
    Missed,
    /// The rate or the cap is used up for about this long.
    Full(Duration),
}

impl Passes {
    /// The passes of `namespace`.
    #[must_use]
    pub fn new(redis: Redis, namespace: &str) -> Self {
        Self {
            redis,
            namespace: namespace.to_owned(),
        }
    }

    /// Claims the pass of `place`.
    ///
    /// # Errors
    /// When Redis does not answer in time; the pass may then be given, and a repeat returns it.
    pub async fn claim(
        &self,
        event_id: EventId,
        place: Place,
        terms: Terms,
        now: DateTime<Utc>,
    ) -> RedisResult<Claim> {
        let keys = self.keys(event_id);
        let (word, first, second, jti): (String, i64, i64, String) = CLAIM
            .key(keys.cursor())
            .key(keys.missed_below())
            .key(keys.left())
            .key(keys.claimed())
            .key(keys.passes())
            .key(keys.shopping())
            .key(keys.claims())
            .arg(place.0)
            .arg(now.timestamp_millis())
            .arg(terms.rate_per_minute)
            .arg(terms.shopper_cap)
            .arg(terms.pass_seconds)
            .arg(Uuid::new_v4().simple().to_string())
            .invoke_async(&mut self.redis.clone())
            .await?;
        let grant = |jti| Grant {
            jti,
            iat: first,
            exp: second,
        };
        Ok(match word.as_str() {
            "granted" => Claim::Granted(grant(jti)),
            "repeated" => Claim::Repeated(grant(jti)),
            "over" => Claim::Over,
            "left" => Claim::Left,
            "not-called" => Claim::NotCalled(first),
            "missed" => Claim::Missed,
            "full" => Claim::Full(Duration::from_millis(u64::try_from(first).unwrap_or(0))),
            other => unreachable!("the script has no outcome {other:?}"),
        })
    }

    /// Ends the pass `jti` of `place`: the slot is free at once. A repeat changes nothing.
    ///
    /// # Errors
    /// When Redis does not answer in time; it can be repeated.
    pub async fn finish(&self, event_id: EventId, place: Place, jti: &str) -> RedisResult<()> {
        let keys = self.keys(event_id);
        FINISH
            .key(keys.passes())
            .key(keys.shopping())
            .arg(place.0)
            .arg(jti)
            .invoke_async(&mut self.redis.clone())
            .await
    }

    /// The pass that `account_id` claimed last, and the place it was claimed with; whether it has
    /// ended is not looked at.
    ///
    /// # Errors
    /// When Redis does not answer in time.
    pub async fn of_account(
        &self,
        event_id: EventId,
        account_id: AccountId,
    ) -> RedisResult<Option<(Place, Grant)>> {
        let keys = self.keys(event_id);
        let mut redis = self.redis.clone();
        let Some(place): Option<i64> = redis.hget(keys.places(), account_id.0).await? else {
            return Ok(None);
        };
        let pass: Option<String> = redis.hget(keys.passes(), place).await?;
        Ok(pass
            .as_deref()
            .and_then(Grant::parse)
            .map(|grant| (Place(place), grant)))
    }

    fn keys(&self, event_id: EventId) -> SaleKeys {
        SaleKeys::new(&self.namespace, event_id)
    }
}
