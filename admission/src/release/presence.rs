//! Who was seen, read from Redis: two bitmaps a second for each sale in which somebody waits.

use chrono::{DateTime, Utc};
use domain::EventId;
use domain::queue::{SEEN_SLOTS, SaleKeys, seen_slot};
use domain::release::Release;
use platform::redis::{Redis, pipe};
use redis::RedisResult;

/// Reads the slot of now and the one before, in which nodes may still write.
pub(super) async fn read_newest(
    redis: &Redis,
    namespace: &str,
    event_id: EventId,
    now: DateTime<Utc>,
) -> RedisResult<Vec<(i64, Vec<u8>)>> {
    let slot = seen_slot(now);
    read(redis, namespace, event_id, slot - 1..=slot).await
}

/// Takes in every slot that is kept. When nobody was seen, everybody counts as seen now: Redis has
/// forgotten, or is away.
pub(super) async fn recall(
    redis: &Redis,
    namespace: &str,
    event_id: EventId,
    now: DateTime<Utc>,
    release: &mut Release,
) {
    let slot = seen_slot(now);
    match read(redis, namespace, event_id, slot - SEEN_SLOTS + 1..=slot).await {
        Ok(slots) => take_in(release, &slots),
        Err(error) => tracing::warn!(%event_id, %error, "it can't be read who is present"),
    }
    if release.has_seen_nobody() {
        release.see_everybody(now);
    }
}

pub(super) fn take_in(release: &mut Release, slots: &[(i64, Vec<u8>)]) {
    for (slot, bitmap) in slots.iter().filter(|(_, bitmap)| !bitmap.is_empty()) {
        release.see(*slot, bitmap);
    }
}

async fn read(
    redis: &Redis,
    namespace: &str,
    event_id: EventId,
    slots: std::ops::RangeInclusive<i64>,
) -> RedisResult<Vec<(i64, Vec<u8>)>> {
    let keys = SaleKeys::new(namespace, event_id);
    let mut gets = pipe();
    for slot in slots.clone() {
        gets.get(keys.seen(slot));
    }
    let bitmaps: Vec<Vec<u8>> = gets.query_async(&mut redis.clone()).await?;
    Ok(slots.zip(bitmaps).collect())
}
