//! Presence bitmaps, read from Redis for each sale in which somebody waits.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard};

use chrono::{DateTime, TimeDelta, Utc};
use domain::EventId;
use domain::queue::{SEEN_SLOTS, SaleKeys, seen_slot};
use domain::release::Release;
use futures_util::future::join_all;
use platform::redis::{Redis, pipe};
use platform::service::Context;
use platform::sync::MutexExt as _;
use redis::RedisResult;

/// Pause after a failed read of Redis: every attempt delays a tick by up to a timeout.
const BREAKER_TIMEOUT: TimeDelta = TimeDelta::seconds(5);

/// A time slot, a part of the numbers, and the bitmap of those seen.
pub(super) type PresenceSlot = (i64, i64, Vec<u8>);
/// A sale, and the parts of its numbers in which somebody waits.
pub(super) type WaitedParts = (EventId, RangeInclusive<i64>);

/// Reads presence of all sales concurrently, so that a hanging Redis costs a tick one timeout,
/// whatever the number of sales. After a failure Redis is left alone for a while; clones share that
/// pause.
#[derive(Debug, Clone, Default)]
pub(super) struct Presence {
    open_until: Arc<Mutex<Option<DateTime<Utc>>>>,
}

impl Presence {
    /// Reads the current slot and the one before, which nodes may still write, and one more on
    /// either side, since nodes use the clock of Redis.
    pub(super) async fn newest(
        &self,
        ctx: &Context,
        now: DateTime<Utc>,
        sales: &[WaitedParts],
    ) -> HashMap<EventId, Vec<PresenceSlot>> {
        let slot = seen_slot(now);
        self.read(ctx, now, sales, slot - 2..=slot + 1).await
    }

    /// Reads every slot that Redis retains.
    pub(super) async fn retained(
        &self,
        ctx: &Context,
        now: DateTime<Utc>,
        sales: &[WaitedParts],
    ) -> HashMap<EventId, Vec<PresenceSlot>> {
        let slot = seen_slot(now);
        self.read(ctx, now, sales, slot - SEEN_SLOTS + 1..=slot + 1)
            .await
    }

    fn lock(&self) -> MutexGuard<'_, Option<DateTime<Utc>>> {
        self.open_until.lock_unpoisoned()
    }

    /// Reads `slots` of each sale; sales whose read failed are left out.
    async fn read(
        &self,
        ctx: &Context,
        now: DateTime<Utc>,
        sales: &[WaitedParts],
        slots: RangeInclusive<i64>,
    ) -> HashMap<EventId, Vec<PresenceSlot>> {
        if self.lock().is_some_and(|until| now < until) {
            return HashMap::new();
        }
        let namespace = &ctx.config.namespace;
        let reads = sales.iter().map(|(sale, parts)| {
            let slots = slots.clone();
            async move {
                (
                    *sale,
                    read(&ctx.redis, namespace, *sale, slots, parts).await,
                )
            }
        });
        let mut seen = HashMap::new();
        for (sale, outcome) in join_all(reads).await {
            match outcome {
                Ok(slots) => {
                    seen.insert(sale, slots);
                }
                Err(error) => {
                    *self.lock() = Some(now + BREAKER_TIMEOUT);
                    tracing::warn!(event_id = %sale, %error, "failed to read presence");
                }
            }
        }
        seen
    }
}

/// Restores presence from retained slots. When they are empty everybody counts as seen now: Redis
/// was flushed, or is unavailable.
pub(super) fn restore(release: &mut Release, now: DateTime<Utc>, retained: &[PresenceSlot]) {
    apply(release, retained);
    if release.has_no_presence() {
        release.mark_all_present(now);
    }
}

pub(super) fn apply(release: &mut Release, slots: &[PresenceSlot]) {
    for (slot, part, bitmap) in slots.iter().filter(|(.., bitmap)| !bitmap.is_empty()) {
        release.record_presence(*slot, *part, bitmap);
    }
}

async fn read(
    redis: &Redis,
    namespace: &str,
    event_id: EventId,
    slots: RangeInclusive<i64>,
    parts: &RangeInclusive<i64>,
) -> RedisResult<Vec<PresenceSlot>> {
    let keys = SaleKeys::new(namespace, event_id);
    let wanted = slots.flat_map(|slot| parts.clone().map(move |part| (slot, part)));
    let wanted: Vec<(i64, i64)> = wanted.collect();
    let mut gets = pipe();
    for (slot, part) in &wanted {
        gets.get(keys.seen(*slot, *part));
    }
    let bitmaps: Vec<Vec<u8>> = gets.query_async(&mut redis.clone()).await?;
    let slots = wanted.into_iter().zip(bitmaps);
    Ok(slots
        .map(|((slot, part), bitmap)| (slot, part, bitmap))
        .collect())
}
