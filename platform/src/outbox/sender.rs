use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sqlx::PgPool;
use uuid::Uuid;

use super::{Staged, StoredMessage, relay};
use crate::amqp::{Broker, Outgoing};
use crate::batcher::{BatchLimits, BatchWork, Batcher, Job};
use crate::pg;

/// A slow pace: no caller waits for the deletion, and the lease is much longer.
const LIMITS: BatchLimits = BatchLimits {
    pace: Duration::from_millis(100),
    ..BatchLimits::USUAL
};

/// Publishes [staged](Staged) messages, and deletes the rows of all writers in batches. Cheap to
/// clone.
#[derive(Clone)]
pub struct Sender {
    db: PgPool,
    broker: Broker,
    removal: Arc<Batcher<Removal>>,
}

impl Sender {
    /// Creates a sender of what is stored in `db`.
    #[must_use]
    pub fn new(db: PgPool, broker: Broker) -> Self {
        let removal = Removal(db.clone());
        Self {
            db,
            broker,
            removal: Arc::new(Batcher::new(removal, LIMITS)),
        }
    }

    pub(super) async fn send(&self, staged: Staged) {
        let Staged { owner, messages } = staged;
        let claimed = messages.into_iter().map(first_try).collect();
        let relay::Sent { sent, failed } = relay::publish(&self.broker, claimed).await;
        let postponing = relay::postpone(&self.db, owner, failed);
        if let Err(error) = pg::within(LIMITS.time, postponing).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(owner, error, "messages wait until their lease runs out");
        }
        if !sent.is_empty() {
            // A failure is logged by the worker; the relay repeats the messages.
            let _removed = self.removal.ask(sent).await;
        }
    }
}

fn first_try(message: StoredMessage) -> relay::Leased {
    let StoredMessage { id, entry } = message;
    relay::Leased::first(Outgoing {
        exchange: entry.exchange,
        routing_key: entry.routing_key,
        name: entry.name.to_owned(),
        body: Bytes::from(entry.body),
        message_id: id,
        traceparent: entry.trace.map(|trace| trace.to_traceparent()),
    })
}

/// Deletes the rows of published messages.
struct Removal(PgPool);

impl BatchWork for Removal {
    type Item = Vec<Uuid>;
    type Output = ();

    async fn work(&self, jobs: Vec<Job<Self>>) {
        let (ids, askers): (Vec<_>, Vec<_>) = jobs.into_iter().map(Job::split).unzip();
        match relay::delete(&self.0, &ids.concat()).await {
            Ok(()) => {
                for asker in askers {
                    asker.answer(());
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    error,
                    "messages sent, and not taken off the outbox; they are sent again"
                );
            }
        }
    }
}
