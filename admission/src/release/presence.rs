//! Who was seen, read from Redis: two bitmaps a second for each sale in which somebody waits.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, TimeDelta, Utc};
use domain::EventId;
use domain::queue::{SEEN_SLOTS, SaleKeys, seen_slot};
use domain::release::Release;
use futures_util::future::join_all;
use platform::redis::{Redis, pipe};
use platform::service::Context;
use redis::RedisResult;

/// How long Redis is left alone after it did not answer: every try makes a tick wait.
const LEFT_ALONE: TimeDelta = TimeDelta::seconds(5);

/// A slot, a part of the numbers, and who of them was seen.
pub(super) type Slot = (i64, i64, Vec<u8>);
/// A sale, and the parts of its numbers in which somebody waits.
pub(super) type Waited = (EventId, RangeInclusive<i64>);

/// Asks Redis who was seen: in all sales at the same time, so that a Redis that hangs costs a tick
/// one time limit, whatever the number of sales.
///
/// Clones leave Redis alone together.
#[derive(Debug, Clone, Default)]
pub(super) struct Presence {
    away_until: Arc<Mutex<Option<DateTime<Utc>>>>,
}

impl Presence {
    /// The slot of now and the one before, in which nodes may still write; and one more on both
    /// sides, since nodes go by the clock of Redis.
    pub(super) async fn newest(
        &self,
        ctx: &Context,
        now: DateTime<Utc>,
        sales: &[Waited],
    ) -> HashMap<EventId, Vec<Slot>> {
        let slot = seen_slot(now);
        self.read(ctx, now, sales, slot - 2..=slot + 1).await
    }

    /// Every slot that is kept.
    pub(super) async fn kept(
        &self,
        ctx: &Context,
        now: DateTime<Utc>,
        sales: &[Waited],
    ) -> HashMap<EventId, Vec<Slot>> {
        let slot = seen_slot(now);
        self.read(ctx, now, sales, slot - SEEN_SLOTS + 1..=slot + 1)
            .await
    }

    fn lock(&self) -> MutexGuard<'_, Option<DateTime<Utc>>> {
        let away_until = self.away_until.lock();
        away_until.unwrap_or_else(PoisonError::into_inner)
    }

    /// Without those for which Redis did not answer.
    async fn read(
        &self,
        ctx: &Context,
        now: DateTime<Utc>,
        sales: &[Waited],
        slots: RangeInclusive<i64>,
    ) -> HashMap<EventId, Vec<Slot>> {
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
                    *self.lock() = Some(now + LEFT_ALONE);
                    tracing::warn!(event_id = %sale, %error, "it can't be read who is present");
                }
            }
        }
        seen
    }
}

/// Takes in what was kept. When nobody was seen, everybody counts as seen now: Redis has
/// forgotten, or is away.
pub(super) fn recall(release: &mut Release, now: DateTime<Utc>, kept: &[Slot]) {
    take_in(release, kept);
    if release.has_seen_nobody() {
        release.see_everybody(now);
    }
}

pub(super) fn take_in(release: &mut Release, slots: &[Slot]) {
    for (slot, part, bitmap) in slots.iter().filter(|(.., bitmap)| !bitmap.is_empty()) {
        release.see(*slot, *part, bitmap);
    }
}

async fn read(
    redis: &Redis,
    namespace: &str,
    event_id: EventId,
    slots: RangeInclusive<i64>,
    parts: &RangeInclusive<i64>,
) -> RedisResult<Vec<Slot>> {
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
