//! Consumes revocations by staff. Box-office has recorded who revoked; the message is retried until
//! the passes have ended.

use std::sync::Arc;
use std::time::Duration;

use domain::message::PassRevoked;
use platform::amqp::{self, Delivery, Handler, Settings, Verdict};
use platform::{pg, topology};

use crate::state::AppState;

/// Deadline of the first attempt. A slower one may hang on a silent connection, and the pass must
/// not stay valid until that is detected.
const FIRST_DEADLINE: Duration = Duration::from_millis(600);
const MAX_DEADLINE: Duration = Duration::from_secs(15);

/// Consumes revocations until soft shutdown.
pub(crate) async fn consume(state: Arc<AppState>) -> anyhow::Result<()> {
    let broker = state.ctx.broker.clone();
    let stop = state.ctx.shutdown.soft().clone();
    let queue = topology::admission_revocations();
    let handler = RevocationHandler(state);
    amqp::consume(&broker, &stop, &queue, Settings::default(), handler).await
}

struct RevocationHandler(Arc<AppState>);

impl Handler for RevocationHandler {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let revoked = match delivery.parse::<PassRevoked>() {
            Ok(message) => message,
            Err(error) => return error.into(),
        };
        let work = Box::pin(revoke(&self.0, &revoked));
        match pg::within(deadline(delivery.attempt), work).await {
            Ok(()) => Verdict::Ack,
            Err(error) => {
                tracing::warn!(event_id = %revoked.event_id, %error, "failed to revoke a pass");
                Verdict::retry(&delivery)
            }
        }
    }
}

/// Doubles with each attempt, so that a slow database is given enough time eventually.
fn deadline(attempt: u32) -> Duration {
    let factor = 2_u32.saturating_pow(attempt.saturating_sub(1));
    FIRST_DEADLINE.saturating_mul(factor).min(MAX_DEADLINE)
}

/// Ends the account's passes, which frees their slots; other nodes poll the change. Idempotent.
async fn revoke(state: &AppState, revoked: &PassRevoked) -> Result<(), sqlx::Error> {
    let PassRevoked {
        event_id,
        account_id,
        at,
    } = *revoked;
    let ended = state.passes.revoke(event_id, &[(account_id, at)]).await?;
    metrics::counter!("admission_revocations_total").increment(ended.len() as u64);
    state.revoked.add(ended);
    Ok(())
}
