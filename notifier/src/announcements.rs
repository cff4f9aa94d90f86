//! Fan-out of event news: leases one announcement at a time and writes its notifications in chunks
//! of bookings, so that no transaction grows with an event and a failing announcement does not
//! block others.

use std::sync::Arc;
use std::time::Duration;

use platform::pg::run_tx;
use tokio_util::sync::CancellationToken;

use crate::state::AppState;
use crate::store::announcements::{self, ClaimedAnnouncement, Fanout};

/// Polling interval of an idle writer that is not woken.
const INTERVAL: Duration = Duration::from_secs(1);
/// Lease for one chunk, and the delay before a failed one is retried.
const LEASE: Duration = Duration::from_secs(60);

/// Fans out announcements until `stop`, one chunk at a time.
///
/// # Errors
/// None at present: failures are retried.
pub(crate) async fn run(state: Arc<AppState>, stop: CancellationToken) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        match work(&state).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "failed to read announcements, retrying");
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(INTERVAL) => {}
            () = state.announced.notified() => {}
        }
    }
    Ok(())
}

/// Inserts announcements for due reminders, then writes one chunk of one announcement. Returns
/// `false` if nothing was due.
async fn work(state: &AppState) -> Result<bool, sqlx::Error> {
    let now = state.now();
    let events = announcements::put_reminders(&state.db, now).await?;
    if events > 0 {
        tracing::info!(events, "reminders are due");
    }
    let Some(claimed) = announcements::claim(&state.db, LEASE, now).await? else {
        return Ok(false);
    };
    let (event_id, kind) = (claimed.event_id.0, claimed.kind.as_str());
    match write_chunk(state, &claimed).await {
        Ok(Fanout::Chunk(notices)) => {
            tracing::info!(event_id, kind, notices, "news written");
            state.wake_senders();
        }
        Ok(Fanout::Complete | Fanout::LeaseLost) => {}
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(
                event_id,
                kind,
                error,
                "failed to write news, retrying in a minute"
            );
        }
    }
    Ok(true)
}

async fn write_chunk(
    state: &AppState,
    claimed: &ClaimedAnnouncement,
) -> Result<Fanout, sqlx::Error> {
    let (has_sms, now) = (state.has_sms, state.now());
    run_tx(&state.db, "notifier write news", |tx| {
        Box::pin(announcements::write_chunk(tx, claimed, has_sms, now))
    })
    .await
}
