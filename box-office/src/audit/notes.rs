//! Consumer of `box-office.audit`: records staff actions in other services. Deliveries are
//! deduplicated by the note's id.

use domain::message::{AuditNoted, Message};
use platform::amqp::{self, Delivery, Handler, Settings, Verdict};
use platform::service::Context;
use platform::topology;
use sqlx::PgPool;

use super::store;

struct Notes(PgPool);

/// Consumes notes until soft shutdown.
///
/// # Errors
/// None at present: failures are retried.
pub(crate) async fn consume(ctx: Context) -> anyhow::Result<()> {
    let (queue, notes) = (topology::box_office_audit(), Notes(ctx.db.clone()));
    let stop = ctx.shutdown.soft();
    amqp::consume(&ctx.broker, stop, &queue, Settings::default(), notes).await
}

impl Handler for Notes {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        if delivery.name != AuditNoted::NAME {
            let name = &delivery.name;
            return Verdict::DeadLetter(format!("unknown message {name:?} in the audit queue"));
        }
        let note: AuditNoted = match delivery.parse() {
            Ok(note) => note,
            Err(error) => return error.into(),
        };
        match store::put_note(&self.0, &note).await {
            Ok(()) => Verdict::Ack,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "failed to record audit note, retrying");
                Verdict::retry(&delivery)
            }
        }
    }
}
