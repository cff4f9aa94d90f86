//! Flushes this node's presence bitmaps to Redis, in a constant number of commands per million
//! numbers.

use chrono::DateTime;
use domain::EventId;
use domain::queue::{SEEN_SLOT_SECONDS, SEEN_SLOTS, seen_slot};
use platform::redis::{cmd, pipe};
use platform::service::Context;
use redis::RedisResult;

use crate::polls::{Polls, PresencePart};

/// Expiry of a node's temporary bitmap, in seconds, in case its removal fails.
const OWN_SECONDS: i64 = 10;

/// Merges the presence since the last flush into the current slot, by the clock of Redis, which all
/// nodes share. If Redis fails, the presence is flushed with the next call.
pub(crate) async fn flush(ctx: &Context, event_id: EventId, polls: &Polls) {
    let seen = polls.take_presence();
    if seen.is_empty() {
        return;
    }
    let slot = match slot(ctx).await {
        Ok(slot) => slot,
        Err(error) => return restore(event_id, polls, &seen, &error),
    };
    for (nth, part) in seen.iter().enumerate() {
        if let Err(error) = add(ctx, event_id, slot, part).await {
            return restore(event_id, polls, &seen[nth..], &error);
        }
    }
}

fn restore(event_id: EventId, polls: &Polls, seen: &[PresencePart], error: &redis::RedisError) {
    tracing::warn!(%event_id, %error, "failed to flush presence, will retry");
    for part in seen {
        polls.restore(part);
    }
}

async fn slot(ctx: &Context) -> RedisResult<i64> {
    let (seconds, _): (i64, i64) = cmd("TIME").query_async(&mut ctx.redis.clone()).await?;
    let now = DateTime::from_timestamp(seconds, 0);
    Ok(seen_slot(now.unwrap_or_else(|| ctx.clock.now())))
}

async fn add(ctx: &Context, event_id: EventId, slot: i64, seen: &PresencePart) -> RedisResult<()> {
    let slot = ctx.sale_keys(event_id).seen(slot, seen.part);
    let own = format!("{slot}:{}", ctx.node);
    let retained = SEEN_SLOT_SECONDS * SEEN_SLOTS;
    pipe()
        .atomic()
        .add_command(
            cmd("SET")
                .arg(&own)
                .arg(&seen.bitmap)
                .arg("EX")
                .arg(OWN_SECONDS)
                .clone(),
        )
        .add_command(
            cmd("BITOP")
                .arg("OR")
                .arg(&slot)
                .arg(&slot)
                .arg(&own)
                .clone(),
        )
        .add_command(cmd("EXPIRE").arg(&slot).arg(retained).clone())
        .add_command(cmd("DEL").arg(&own).clone())
        .query_async(&mut ctx.redis.clone())
        .await
}
