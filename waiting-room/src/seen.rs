//! Tells Redis who was seen on this node. It takes the same few commands whether ten people wait
//! or a million.

use domain::queue::{SEEN_SLOT_SECONDS, SEEN_SLOTS, seen_slot};
use platform::redis::{cmd, pipe};
use platform::service::Context;
use redis::RedisResult;

use crate::sales::Sale;

/// How long a node's own bitmap lasts if it is not taken away, in seconds.
const OWN_SECONDS: i64 = 10;

/// Adds those who were seen since the last time to the bitmap of now. If Redis does not take them,
/// they are told the next time.
pub(crate) async fn tell(ctx: &Context, sale: &Sale) {
    let bitmap = sale.asked.take_seen();
    if bitmap.is_empty() {
        return;
    }
    if let Err(error) = add(ctx, sale, &bitmap).await {
        let event_id = sale.event_id;
        tracing::warn!(%event_id, %error, "who was seen is not told to Redis yet");
        sale.asked.put_back(&bitmap);
    }
}

async fn add(ctx: &Context, sale: &Sale, bitmap: &[u8]) -> RedisResult<()> {
    let slot = ctx
        .sale_keys(sale.event_id)
        .seen(seen_slot(ctx.clock.now()));
    let own = format!("{slot}:{}", ctx.node);
    let kept = SEEN_SLOT_SECONDS * SEEN_SLOTS;
    pipe()
        .atomic()
        .add_command(
            cmd("SET")
                .arg(&own)
                .arg(bitmap)
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
