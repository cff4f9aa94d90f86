//! Applies stored webhooks, each until it had its effect or is known to have none.

use std::sync::Arc;
use std::time::Duration;

use platform::leased::{self, Capacity, Claimed, Timing};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

use super::apply::{ApplyError, apply};
use crate::operation::backoff;
use crate::state::AppState;
use crate::store;
use crate::store::inbox::Stored;

/// Most webhooks applied at once, those that wait for Stripe included.
const MAX_IN_FLIGHT: usize = 16;
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
pub(crate) async fn run(state: Arc<AppState>, stop: CancellationToken) -> anyhow::Result<()> {
    let capacity = Capacity::new(MAX_IN_FLIGHT);
    leased::run(Inbox { state, capacity }, TIMING, stop).await
}

struct Inbox {
    state: Arc<AppState>,
    capacity: Capacity,
}

impl leased::Work for Inbox {
    fn name(&self) -> &'static str {
        "webhooks"
    }

    async fn begin_due(&mut self) -> Result<Claimed, sqlx::Error> {
        let (state, permits) = (&self.state, self.capacity.acquire_all().await);
        let limit = i64::try_from(permits.len()).expect("permits are few");
        let due = store::inbox::claim_due(&state.db, limit, LEASE, state.now()).await?;
        let is_full = due.len() == permits.len();
        for (webhook, permit) in due.into_iter().zip(permits) {
            let state = Arc::clone(state);
            let settling = async move { settle(&state, webhook).await };
            self.capacity.begin(permit, settling);
        }
        Ok(if is_full { Claimed::Some } else { Claimed::All })
    }

    async fn woken(&mut self) {
        self.state.webhook_stored.notified().await;
    }

    async fn drain(self) {
        self.capacity.drain().await;
    }
}

async fn settle(state: &AppState, webhook: Stored) {
    let span = tracing::info_span!("webhook", event_id = webhook.event_id, kind = webhook.kind);
    let applied = apply(state, &webhook).instrument(span.clone()).await;
    let Err(error) = applied else {
        state.wake_after_commit();
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
    put_off(state, &webhook, &text).instrument(span).await;
}

async fn put_off(state: &AppState, webhook: &Stored, note: &str) {
    let id = Uuid::new_v5(&Uuid::NAMESPACE_OID, webhook.event_id.as_bytes());
    let due = state.now() + backoff(webhook.tries, id);
    if let Err(error) = store::inbox::put_off(&state.db, &webhook.event_id, note, due).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(
            error,
            "rescheduling a webhook failed; it is applied after its lease"
        );
    }
}
