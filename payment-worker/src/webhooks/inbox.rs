//! Applies stored webhooks, each until it had its effect or is known to have none.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use super::apply::{ApplyError, apply};
use crate::backoff::backoff;
use crate::store;
use crate::store::inbox::Stored;
use crate::worker::Worker;

/// Most webhooks applied at once, those that wait for Stripe included.
const PLACES: usize = 16;
/// Longest time between two polls of an idle loop.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// Pause after a failure of the database.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// After it the webhook of a worker that died is applied by another. One that takes longer is
/// applied twice, which is harmless.
const LEASE: Duration = Duration::from_secs(30);

/// Runs until `stop`, then drains what is in flight.
///
/// # Errors
/// None at present: whatever fails is tried again.
pub(crate) async fn run(worker: Arc<Worker>, stop: CancellationToken) -> anyhow::Result<()> {
    let mut begun = JoinSet::new();
    while !stop.is_cancelled() {
        // Registered before the poll, so that a wake in between is not lost.
        let woken = worker.webhook_stored.notified();
        let pause = match begin_due(&worker, &mut begun).await {
            Ok(0) => POLL_INTERVAL,
            Ok(_) if begun.len() < PLACES => continue,
            Ok(_) => POLL_INTERVAL,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "claiming webhooks failed; retrying");
                FAILURE_PAUSE
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
            () = woken, if begun.len() < PLACES => {}
            Some(settled) = begun.join_next() => settled.expect("settling does not panic"),
        }
    }
    while let Some(settled) = begun.join_next().await {
        settled.expect("settling does not panic");
    }
    Ok(())
}

/// Starts as many due webhooks as there is room for; returns how many.
async fn begin_due(worker: &Arc<Worker>, begun: &mut JoinSet<()>) -> Result<usize, sqlx::Error> {
    while let Some(settled) = begun.try_join_next() {
        settled.expect("settling does not panic");
    }
    let free = PLACES - begun.len();
    if free == 0 {
        return Ok(0);
    }
    let limit = i64::try_from(free).expect("places are few");
    let due = store::inbox::claim_due(&worker.db, limit, LEASE, worker.now()).await?;
    let count = due.len();
    for webhook in due {
        let worker = Arc::clone(worker);
        begun.spawn(async move { settle(&worker, webhook).await });
    }
    Ok(count)
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
    let due = worker.now() + backoff(id, webhook.tries);
    if let Err(error) = store::inbox::put_off(&worker.db, &webhook.event_id, note, due).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(
            error,
            "rescheduling a webhook failed; it is applied after its lease"
        );
    }
}
