//! Takes back the passes that staff say. Box-office wrote down who said so; the message goes on
//! until it is done.

use std::sync::Arc;

use domain::message::PassRevoked;
use platform::amqp::{self, Delivery, Handler, Settings, Verdict};
use platform::topology;
use redis::RedisResult;

use crate::Desk;

/// Revokes passes until soft shutdown.
pub(crate) async fn consume(desk: Arc<Desk>) -> anyhow::Result<()> {
    let broker = desk.ctx.broker.clone();
    let stop = desk.ctx.shutdown.soft().clone();
    let queue = topology::admission_revocations();
    let handler = Revocations(desk);
    amqp::consume(&broker, &stop, &queue, Settings::default(), handler).await
}

struct Revocations(Arc<Desk>);

impl Handler for Revocations {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let revoked = match delivery.parse::<PassRevoked>() {
            Ok(message) => message,
            Err(error) => return error.into(),
        };
        match revoke(&self.0, &revoked).await {
            Ok(()) => Verdict::Ack,
            Err(error) => {
                tracing::warn!(event_id = %revoked.event_id, %error, "a pass was not revoked");
                Verdict::retry(&delivery)
            }
        }
    }
}

/// Refuses the pass from now on, then gives its slot back: in this order, so that the slot is
/// never another's while the pass is still good. A repeat changes nothing.
async fn revoke(desk: &Desk, revoked: &PassRevoked) -> RedisResult<()> {
    let passes = &desk.passes;
    let found = passes
        .of_account(revoked.event_id, revoked.account_id)
        .await?;
    let Some((place, pass)) = found else {
        return Ok(());
    };
    if pass.iat > revoked.at.timestamp() {
        return Ok(());
    }
    let now = desk.ctx.clock.now();
    desk.revoked.add(&pass.jti, pass.exp, now).await?;
    passes.finish(revoked.event_id, place, &pass.jti).await?;
    metrics::counter!("admission_revocations_total").increment(1);
    Ok(())
}
