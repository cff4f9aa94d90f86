//! Writes news of events for all who hold tickets of them, some bookings at a time: no transaction
//! grows with an event, and one that fails stops no other.

use std::sync::Arc;
use std::time::Duration;

use platform::pg::run_tx;
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;
use crate::store::announcements::{self, Claimed, Written};

/// How long an idle writer waits when nobody wakes it.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a process has for one chunk, and how long one that failed waits.
const LEASE: Duration = Duration::from_secs(60);

/// Runs until `stop`.
///
/// # Errors
/// None at present: whatever fails is tried again.
pub(crate) async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        match work(&shared).await {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "announcements can't be read; trying again");
            }
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(INTERVAL) => {}
            () = shared.announced.notified() => {}
        }
    }
    Ok(())
}

/// Announces the reminders that are due and writes a chunk of one announcement; `false` when
/// nothing was due.
async fn work(shared: &Shared) -> Result<bool, sqlx::Error> {
    let now = shared.now();
    let events = announcements::put_reminders(&shared.db, now).await?;
    if events > 0 {
        tracing::info!(events, "reminders are due");
    }
    let Some(claimed) = announcements::claim(&shared.db, LEASE, now).await? else {
        return Ok(false);
    };
    let (event_id, kind) = (claimed.event_id.0, claimed.kind.as_str());
    match write_chunk(shared, &claimed).await {
        Ok(Written::Some(notices)) => {
            tracing::info!(event_id, kind, notices, "news written");
            shared.wake_senders();
        }
        Ok(Written::All | Written::Lost) => {}
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(
                event_id,
                kind,
                error,
                "news not written; trying again in a minute"
            );
        }
    }
    Ok(true)
}

async fn write_chunk(shared: &Shared, claimed: &Claimed) -> Result<Written, sqlx::Error> {
    let (has_sms, now) = (shared.has_sms, shared.now());
    run_tx(&shared.db, "notifier write news", |tx| {
        Box::pin(announcements::write_chunk(tx, claimed, has_sms, now))
    })
    .await
}
