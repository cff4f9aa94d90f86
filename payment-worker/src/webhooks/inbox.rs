//! Applies stored webhooks, each until it had its effect or is known to have none.

use std::sync::Arc;
use std::time::Duration;

use platform::leased::{self, Capacity, Claimed, Timing};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use super::apply::{ApplyError, apply};
use crate::operation::backoff;
use crate::store;
use crate::store::inbox::Stored;
use crate::worker::Worker;

/// Most webhooks applied at once, those that wait for Stripe included.
const PLACES: usize = 16;
const TIMING: Timing = Timing {
    pace: Duration::from_millis(10),
    idle: Duration::from_millis(500),
};
/// After it the webhook of a worker that died is applied by another. One that takes longer is
/// applied twice, which is harmless.
const LEASE: Duration = Duration::from_secs(30);

/// Runs until `stop`, then drains what is in flight.
///
/// # Errors
/// None at present: whatever fails is tried again.
pub(crate) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> anyhow::Result<()> {
    let room = Capacity::new(PLACES);
    leased::run(Inbox { worker, room }, TIMING, stop).await
}

struct Inbox {
    worker: Arc<Worker>,
    room: Capacity,
}

impl leased::Work for Inbox {
    fn name(&self) -> &'static str {
        "webhooks"
    }

    async fn begin_due(&mut self) -> Result<Claimed, sqlx::Error> {
        let (worker, places) = (&self.worker, self.room.acquire_all().await);
        let limit = i64::try_from(places.len()).expect("places are few");
        let due = store::inbox::claim_due(&worker.db, limit, LEASE, worker.now()).await?;
        let is_full = due.len() == places.len();
        for (webhook, place) in due.into_iter().zip(places) {
            let worker = Arc::clone(worker);
            let settling = async move { settle(&worker, webhook).await };
            self.room.begin(place, settling);
        }
        Ok(if is_full { Claimed::Some } else { Claimed::All })
    }

    async fn woken(&mut self) {
        self.worker.webhook_stored.notified().await;
    }

    async fn drain(self) {
        self.room.drain().await;
    }
}

async fn settle(worker: &Worker, webhook: Stored) {
    let span = tracing::info_span!("webhook", event_id = webhook.event_id, kind = webhook.kind);
    let applied = apply(worker, &webhook).instrument(span.clone()).await;
    let Err(error) = applied else {
        worker.wake_after_commit();
        return;
    };
    let text = error.to_string();
    span.in_scope(|| match &error {
        ApplyError::TooEarly => tracing::debug!("webhook came too early; retrying"),
        other => {
            let error = other as &dyn std::error::Error;
            tracing::warn!(error, "applying a webhook failed; retrying");
        }
    });
    put_off(worker, &webhook, &text).instrument(span).await;
}

async fn put_off(worker: &Worker, webhook: &Stored, note: &str) {
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, webhook.event_id.as_bytes());
    let due = worker.now() + backoff(webhook.tries, id);
    if let Err(error) = store::inbox::put_off(&worker.db, &webhook.event_id, note, due).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(
            error,
            "rescheduling a webhook failed; it is applied after its lease"
        );
    }
}
