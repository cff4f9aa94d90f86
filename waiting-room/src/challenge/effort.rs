//! How much work a challenge is.

use std::sync::LazyLock;

use chrono::{DateTime, Utc};
use domain::queue::SaleKeys;
use platform::limits::AddressGroup;
use platform::redis::{Redis, Script};
use redis::RedisResult;

use super::LIFE;

static ATTEMPTS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("attempts.lua")));
static REDEEM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("redeem.lua")));

/// The number is at most this for a lone person.
const BASE: u32 = 25_000;
/// Attempts in 60 s that any group of addresses may make at that price: a household.
const FREE: i64 = 2;
/// A group may make one attempt in so many of those that were paid for at that price: a university
/// in a large sale.
const FAIR_PART: i64 = 2_000;
/// Each further attempt costs 4 times the one before, so many times.
const MAX_STEPS: i64 = 7;
const MILLIS: i64 = 60_000;
const KEPT_SECONDS: i64 = 180;

/// Attempts to join in the last 60 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempts {
    /// By one group of addresses.
    pub group: i64,
    /// By everybody, as far as their challenges were solved: those that are only asked for cost
    /// nothing, and would make the price of all others fall.
    pub all: i64,
}

impl Attempts {
    /// Counts one by `group`. Attempts count when a challenge is given, not when it is solved, so
    /// that a store of cheap ones can't be gathered first.
    ///
    /// # Errors
    /// When Redis does not answer in time.
    pub async fn count(
        redis: &Redis,
        keys: &SaleKeys,
        group: AddressGroup,
        now: DateTime<Utc>,
    ) -> RedisResult<Self> {
        let now = now.timestamp_millis();
        let minute = now.div_euclid(MILLIS);
        let inside = 1_000 - now.rem_euclid(MILLIS) * 1_000 / MILLIS;
        let (group, all) = ATTEMPTS
            .key(keys.attempts(minute))
            .key(keys.attempts(minute - 1))
            .arg(group.to_string())
            .arg(inside)
            .arg(KEPT_SECONDS)
            .invoke_async(&mut redis.clone())
            .await?;
        Ok(Self { group, all })
    }

    /// Takes the solved challenge `id`, once; whether it was not taken before.
    ///
    /// # Errors
    /// When Redis does not answer in time; the challenge may then be taken.
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
            .arg(KEPT_SECONDS)
            .invoke_async(&mut redis.clone())
            .await
    }
}

/// The highest number that the next challenge may have; finding it takes half as many hashes on
/// average.
#[must_use]
pub fn max_number(attempts: Attempts) -> u32 {
    let fair = FREE.max(attempts.all / FAIR_PART);
    let excess = attempts.group.saturating_sub(fair).clamp(0, MAX_STEPS);
    BASE << (2 * excess)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(group: i64, all: i64) -> u32 {
        max_number(Attempts { group, all })
    }

    #[test]
    fn a_person_pays_little_and_a_greedy_network_much() {
        assert_eq!([at(1, 1), at(2, 2), at(3, 3)], [BASE, BASE, 4 * BASE]);
        assert_eq!(at(200, 10_000), BASE << 14);
        assert_eq!(at(i64::MAX, 0), BASE << 14);
    }

    #[test]
    fn what_is_greedy_in_a_small_sale_is_fair_in_a_large_one() {
        assert_eq!(at(50, 100_000), BASE);
        assert_eq!(at(52, 100_000), 16 * BASE);
    }
}
