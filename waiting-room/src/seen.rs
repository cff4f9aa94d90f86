//! Tells Redis who was seen on this node. It takes the same few commands whether ten people wait
//! or a million.

use chrono::DateTime;
use domain::queue::{SEEN_SLOT_SECONDS, SEEN_SLOTS, seen_slot};
use platform::redis::{cmd, pipe};
use platform::service::Context;
use redis::RedisResult;

use crate::asked::Seen;
use crate::sales::Sale;

/// How long a node's own bitmap lasts if it is not taken away, in seconds.
const OWN_SECONDS: i64 = 10;

/// Adds those who were seen since the last time to the bitmaps of now, by the clock of Redis: it is
/// the same for all nodes. If Redis does not take them, they are told the next time.
pub(crate) async fn tell(ctx: &Context, sale: &Sale) {
    let seen = sale.asked.take_seen();
    if seen.is_empty() {
        return;
    }
    let slot = match slot(ctx).await {
        Ok(slot) => slot,
        Err(error) => return put_back(sale, &seen, &error),
    };
    for (nth, part) in seen.iter().enumerate() {
        if let Err(error) = add(ctx, sale, slot, part).await {
            return put_back(sale, &seen[nth..], &error);
        }
    }
}

fn put_back(sale: &Sale, seen: &[Seen], error: &redis::RedisError) {
    let event_id = sale.event_id;
    tracing::warn!(%event_id, %error, "who was seen is not told to Redis yet");
    for part in seen {
        sale.asked.put_back(part);
    }
}

async fn slot(ctx: &Context) -> RedisResult<i64> {
    let (seconds, _): (i64, i64) = cmd("TIME").query_async(&mut ctx.redis.clone()).await?;
    let now = DateTime::from_timestamp(seconds, 0);
    Ok(seen_slot(now.unwrap_or_else(|| ctx.clock.now())))
}

async fn add(ctx: &Context, sale: &Sale, slot: i64, seen: &Seen) -> RedisResult<()> {
    let slot = ctx.sale_keys(sale.event_id).seen(slot, seen.part);
    let own = format!("{slot}:{}", ctx.node);
    let kept = SEEN_SLOT_SECONDS * SEEN_SLOTS;
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
        .add_command(cmd("EXPIRE").arg(&slot).arg(kept).clone())
        .add_command(cmd("DEL").arg(&own).clone())
        .query_async(&mut ctx.redis.clone())
        .await
}
