//! Difficulty of challenges: it doubles with each asker of a network beyond its fair share.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use domain::queue::SaleKeys;
use platform::limits::AddressGroup;
use platform::redis::{Redis, Script, cmd};
use redis::RedisResult;

use super::LIFE;

static ATTEMPTS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("attempts.lua")));
static REDEEM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("redeem.lua")));

/// Highest number at the base price.
const BASE: u32 = 25_000;
/// Askers of a group of addresses in 60 s at the base price, as of a household; also the requests
/// of each.
const FREE: i64 = 2;
/// A group's fair share at the base price is one in this many solved challenges, as of a university
/// in a large sale.
const FAIR_PART: i64 = 2_000;
/// Maximum number of doublings: a slow phone, which tries some 170,000 numbers a second, then takes
/// ten seconds on average.
const MAX_STEPS: i64 = 7;
const MILLIS: i64 = 60_000;
const RETENTION_SECONDS: i64 = 180;

/// Counts of challenges over a sliding window of 60 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempts {
    /// Distinct askers of the group: one that asks often does not raise its neighbours' price.
    pub group: i64,
    /// Requests by this asker.
    pub own: i64,
    /// Solved challenges of the whole sale. Unsolved ones are free to request, and would lower the
    /// price of all others.
    pub all: i64,
}

impl Attempts {
    /// Counts a request by `asker` of `group`. Requests count when a challenge is issued, not when
    /// it is solved, so that cheap ones can't be hoarded.
    ///
    /// # Errors
    /// When Redis does not answer in time.
    pub async fn count(
        redis: &Redis,
        keys: &SaleKeys,
        group: AddressGroup,
        asker: &str,
        now: DateTime<Utc>,
    ) -> RedisResult<Self> {
        let now = now.timestamp_millis();
        let minute = now.div_euclid(MILLIS);
        let inside = 1_000 - now.rem_euclid(MILLIS) * 1_000 / MILLIS;
        let (group, own, all) = ATTEMPTS
            .key(keys.attempts(minute))
            .key(keys.attempts(minute - 1))
            .arg(group.to_string())
            .arg(asker)
            .arg(inside)
            .arg(RETENTION_SECONDS)
            .invoke_async(&mut redis.clone())
            .await?;
        Ok(Self { group, own, all })
    }

    /// Redeems the solved challenge `id`. Returns `false` if it was redeemed before.
    ///
    /// # Errors
    /// When Redis does not answer in time; the challenge may have been redeemed.
    pub async fn redeem(
        redis: &Redis,
        keys: &SaleKeys,
        id: &str,
        now: DateTime<Utc>,
    ) -> RedisResult<bool> {
        REDEEM
            .key(keys.solved(id))
            .key(keys.attempts(now.timestamp_millis().div_euclid(MILLIS)))
            .arg(LIFE.num_seconds() + 1)
            .arg(RETENTION_SECONDS)
            .invoke_async(&mut redis.clone())
            .await
    }
}

impl Attempts {
    /// Reverts [`redeem`](Self::redeem), when the join failed.
    ///
    /// # Errors
    /// When Redis does not answer in time.
    pub async fn revert(redis: &Redis, keys: &SaleKeys, id: &str) -> RedisResult<()> {
        cmd("DEL")
            .arg(keys.solved(id))
            .query_async(&mut redis.clone())
            .await
    }
}

/// Returns `maxnumber` of the next challenge; solving it takes half as many hashes on average.
#[must_use]
pub fn max_number(attempts: Attempts) -> u32 {
    let fair = FREE.max(attempts.all / FAIR_PART);
    let greedy = attempts.group.saturating_sub(fair);
    let eager = attempts.own.saturating_sub(FREE);
    BASE << greedy.max(eager).clamp(0, MAX_STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(group: i64, own: i64, all: i64) -> u32 {
        max_number(Attempts { group, own, all })
    }

    #[test]
    fn a_person_pays_little_and_a_greedy_network_more() {
        assert_eq!(
            [at(1, 1, 1), at(2, 2, 2), at(3, 1, 3)],
            [BASE, BASE, 2 * BASE]
        );
        assert_eq!(at(1, 4, 1), 4 * BASE, "who asks again and again");
    }

    #[test]
    fn nobody_pays_more_than_a_slow_phone_can_in_about_ten_seconds() {
        const HASHES_PER_SECOND: u32 = 171_000;
        for dearest in [at(200, 1, 10_000), at(i64::MAX, 1, 0), at(1, i64::MAX, 0)] {
            let average = dearest / 2 / HASHES_PER_SECOND;
            assert!((5..=10).contains(&average), "{average} s");
        }
    }

    #[test]
    fn the_fair_share_grows_with_the_sale() {
        assert_eq!(at(50, 1, 100_000), BASE);
        assert_eq!(at(52, 1, 100_000), 4 * BASE);
    }
}
