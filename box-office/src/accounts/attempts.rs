//! Limits on guesses at passwords: exponential backoff for each account, whose known places have a
//! count of their own, and a quota of wrong guesses for each network across nodes.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use hmac::{Hmac, Mac as _};
use platform::limits::{AddressGroup, Quota, SharedLimits, Take};
use platform::problem::{Kind, Problem};
use platform::service::Context;
use sha2::Sha256;
use sqlx::PgPool;

/// Attempts at one account before each further one must wait.
const FREE: i32 = 10;
/// The wait after the last free attempt; each further attempt doubles it.
const FIRST_WAIT: TimeDelta = TimeDelta::seconds(30);
const MAX_WAIT: TimeDelta = TimeDelta::minutes(15);
/// An account that nobody tried for so long starts anew.
const FORGOTTEN_AFTER: TimeDelta = TimeDelta::hours(1);
/// How long a place stays known after the last sign-in from it.
const KNOWN_FOR: TimeDelta = TimeDelta::days(90);
/// Wrong guesses of one network: many people may share it, and some mistype.
const WRONG_GUESSES: Quota = Quota {
    burst: 300,
    per: Duration::from_secs(600),
};

/// Where a sign-in comes from: the caller's network, in a form that shows nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place([u8; 16]);

impl Place {
    /// The place of `network`.
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

/// Counts an attempt at the account of `address` (lower case), before its password is checked:
/// attempts at once count as one after the other. `known_place` is the caller's when the account
/// signed in from it before.
///
/// # Errors
/// `rate-limited` until the wait is over, whether or not there is such an account.
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
        "Too many wrong passwords for this account; wait as long as Retry-After says.",
    )
    .retry_after(wait.to_std().unwrap_or_default()))
}

/// Forgets the attempts that [`begin`] counted, after the right password.
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

/// Deletes what no limit needs any more: counts that would start anew, and places that nobody has
/// signed in from for long.
pub(super) async fn sweep(pool: &PgPool, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from box_office.sign_in_attempts where (address, place) in (
             select address, place from box_office.sign_in_attempts where next_at <= $1 limit 10000)",
        now - FORGOTTEN_AFTER,
    )
    .execute(pool)
    .await?;
    sqlx::query!(
        "delete from box_office.places where (account_id, place) in (
             select account_id, place from box_office.places where seen_at <= $1 limit 10000)",
        now - KNOWN_FOR,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Quotas of networks across nodes. Without Redis only the limits of each node hold.
pub(crate) struct Networks {
    limits: SharedLimits,
    namespace: String,
}

impl Networks {
    pub(crate) fn new(ctx: &Context) -> Self {
        Self {
            limits: ctx.limits.shared(ctx.redis.clone()),
            namespace: ctx.config.namespace.clone(),
        }
    }

    /// Refuses a network whose wrong guesses are used up.
    ///
    /// # Errors
    /// `rate-limited`.
    pub(super) async fn may_guess(
        &self,
        network: AddressGroup,
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        self.take(&[self.wrong_guesses(network, 0)], now).await
    }

    /// Counts a wrong guess.
    pub(super) async fn count_wrong(&self, network: AddressGroup, now: DateTime<Utc>) {
        // A refusal is the next caller's.
        let _used_up = self.take(&[self.wrong_guesses(network, 1)], now).await;
    }

    fn wrong_guesses(&self, network: AddressGroup, count: u32) -> Take {
        Take {
            key: format!("{}:limit:wrong-password:{network}", self.namespace),
            quota: WRONG_GUESSES,
            count,
        }
    }

    /// Counts one request of `network` in a cell for each of `quotas`.
    ///
    /// # Errors
    /// `rate-limited` when one of them is used up.
    pub(super) async fn count(
        &self,
        name: &str,
        network: AddressGroup,
        quotas: &[Quota],
        now: DateTime<Utc>,
    ) -> Result<(), Problem> {
        let cell = |quota: &Quota| Take {
            // One hash tag, so that one script may take all.
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
            // Asking for none looks whether one would go through.
            taken.count < take.count || (take.count == 0 && !taken.wait.is_zero())
        });
        match refused.map(|(taken, _)| taken.wait).max() {
            Some(wait) => Err(SharedLimits::refusal(wait)),
            None => Ok(()),
        }
    }
}
