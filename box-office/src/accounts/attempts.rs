//! Brute-force protection: exponential backoff per account, counted separately for each network the
//! account has signed in from, and a cluster-wide quota of wrong guesses per network.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, Mac as _};
use platform::limits::{AddressGroup, Quota, SharedLimits, Take};
use platform::problem::{Kind, Problem};
use platform::service::Context;
use sha2::Sha256;
use sqlx::PgPool;

/// Attempts at one account before backoff begins.
const FREE: i32 = 10;
/// Backoff after the last free attempt; each further attempt doubles it.
const FIRST_WAIT: TimeDelta = TimeDelta::seconds(30);
const MAX_WAIT: TimeDelta = TimeDelta::minutes(15);
/// Attempts at an account expire after this time without a further one.
const FORGOTTEN_AFTER: TimeDelta = TimeDelta::hours(1);
/// Time since the last sign-in after which a network no longer counts as known to the account.
const KNOWN_FOR: TimeDelta = TimeDelta::days(90);
/// Wrong guesses per network. Generous, because many people may share one and some mistype.
const WRONG_GUESSES: Quota = Quota {
    burst: 300,
    per: Duration::from_secs(600),
};

/// The caller's network as a keyed hash, so that stored rows do not reveal addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place([u8; 16]);

impl Place {
    /// Hashes `network` with the service's key.
    pub(super) fn of(ctx: &Context, network: AddressGroup) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(&ctx.keys.derive("sign-in-place"))
            .expect("HMAC takes keys of any length");
        mac.update(network.to_string().as_bytes());
        let digest = mac.finalize().into_bytes();
        let (place, _) = digest.split_first_chunk().expect("SHA-256 has 32 bytes");
        Self(*place)
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        &self.0
    }
}

/// Records an attempt at the account of `address` (lower case) before its password is checked, so
/// that concurrent attempts are counted like sequential ones. `known_place` is the caller's network
/// if the account has signed in from it before.
///
/// # Errors
/// `rate-limited` until the backoff is over, whether or not the account exists.
pub(super) async fn begin(
    pool: &PgPool,
    address: &str,
    known_place: Option<Place>,
    now: DateTime<Utc>,
) -> Result<(), Problem> {
    let place = known_place.as_ref().map_or(&[][..], Place::as_slice);
    let wait_seconds =
        |wait: TimeDelta| f64::from(i32::try_from(wait.num_seconds()).unwrap_or(i32::MAX));
    let allowed = sqlx::query_scalar!(
        "insert into box_office.sign_in_attempts as tried (address, place, attempts, next_at)
         values ($1, $2, 1, $3)
         on conflict (address, place) do update
         set attempts = case when tried.next_at <= $4 then 1 else tried.attempts + 1 end,
             next_at = case
                 when tried.next_at <= $4 or tried.attempts + 1 < $5 then $3
                 else $3 + interval '1 second'
                     * least($6 * 2::float8 ^ least(tried.attempts + 1 - $5, 20), $7)
             end
         where tried.next_at <= $3
         returning attempts",
        address,
        place,
        now,
        now - FORGOTTEN_AFTER,
        FREE,
        wait_seconds(FIRST_WAIT),
        wait_seconds(MAX_WAIT),
    )
    .fetch_optional(pool)
    .await?;
    if allowed.is_some() {
        return Ok(());
    }
    let next_at = sqlx::query_scalar!(
        "select next_at from box_office.sign_in_attempts where address = $1 and place = $2",
        address,
        place,
    )
    .fetch_optional(pool)
    .await?;
    let wait = next_at.map_or(TimeDelta::zero(), |next_at| next_at - now);
    Err(Problem::new(
        Kind::RateLimited,
        "Too many sign-in attempts for this account. Try again after the time in Retry-After.",
    )
    .retry_after(wait.to_std().unwrap_or_default()))
}

/// Resets the attempts recorded by [`begin`] once the right password was given.
pub(super) async fn forget(
    pool: &PgPool,
    address: &str,
    known_place: Option<Place>,
) -> Result<(), sqlx::Error> {
    let place = known_place.as_ref().map_or(&[][..], Place::as_slice);
    sqlx::query!(
        "delete from box_office.sign_in_attempts where address = $1 and place = $2",
        address,
        place,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Deletes up to `limit` expired counts of attempts, and returns how many.
pub(super) async fn delete_expired(
    pool: &PgPool,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query!(
        "delete from box_office.sign_in_attempts where (address, place) in (
             select address, place from box_office.sign_in_attempts where next_at <= $1
             limit $2 for update skip locked)",
        now - FORGOTTEN_AFTER,
        limit,
    )
    .execute(pool)
    .await?;
    Ok(deleted.rows_affected())
}

/// Deletes up to `limit` networks not seen for [`KNOWN_FOR`], and returns how many.
pub(super) async fn delete_places(
    pool: &PgPool,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query!(
        "delete from box_office.places where (account_id, place) in (
             select account_id, place from box_office.places where seen_at <= $1
             limit $2 for update skip locked)",
        now - KNOWN_FOR,
        limit,
    )
    .execute(pool)
    .await?;
    Ok(deleted.rows_affected())
}

/// Cluster-wide quotas per network. Fails open: without Redis only the limits of each node apply.
pub(crate) struct Networks {
    limits: SharedLimits,
    namespace: String,
}

impl Networks {
    /// Quotas shared through the context's Redis.
    pub(crate) fn new(ctx: &Context) -> Self {
        Self {
            limits: ctx.limits.shared(ctx.redis.clone()),
            namespace: ctx.config.namespace.clone(),
        }
    }

    /// Checks, without consuming anything, that `network` has wrong guesses left.
    ///
    /// # Errors
    /// `rate-limited` when the quota is exhausted.
    pub(super) async fn may_guess(
        &self,
        network: AddressGroup,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        self.take(&[self.wrong_guesses(network, 0)], now).await
    }

    /// Consumes one wrong guess from the quota of `network`.
    pub(super) async fn count_wrong(&self, network: AddressGroup, now: DateTime<Utc>) {
        // An exhausted quota refuses the next caller, not this one.
        let _used_up = self.take(&[self.wrong_guesses(network, 1)], now).await;
    }

    fn wrong_guesses(&self, network: AddressGroup, count: u32) -> Take {
        Take {
            key: format!("{}:limit:wrong-password:{network}", self.namespace),
            quota: WRONG_GUESSES,
            count,
        }
    }

    /// Consumes one request of `network` from each of `quotas`.
    ///
    /// # Errors
    /// `rate-limited` when one of them is exhausted, with the longest wait.
    pub(super) async fn count(
        &self,
        name: &str,
        network: AddressGroup,
        quotas: &[Quota],
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let cell = |quota: &Quota| Take {
            // A shared hash tag keeps all cells in one Redis Cluster slot, as the script needs.
            key: format!(
                "{}:{{limit:{name}:{network}}}:{}",
                self.namespace,
                quota.per.as_secs()
            ),
            quota: *quota,
            count: 1,
        };
        let takes: Vec<_> = quotas.iter().map(cell).collect();
        self.take(&takes, now).await
    }

    async fn take(&self, takes: &[Take], now: DateTime<Utc>) -> Result<(), Problem> {
        let taken = match self.limits.take(takes, now).await {
            Ok(taken) => taken,
            Err(error) => {
                tracing::warn!(%error, "limits across nodes unavailable");
                return Ok(());
            }
        };
        let refused = taken.iter().zip(takes).filter(|(taken, take)| {
            // A take of zero only checks whether one more would be admitted.
            taken.count < take.count || (take.count == 0 && !taken.wait.is_zero())
        });
        match refused.map(|(taken, _)| taken.wait).max() {
            Some(wait) => Err(SharedLimits::refusal(wait)),
            None => Ok(()),
        }
    }
}
