//! Writes reminders when their time comes.

use std::sync::Arc;
use std::time::Duration;

use platform::pg::run_tx;
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;
use crate::store::notifications;

const INTERVAL: Duration = Duration::from_secs(1);

/// Runs until `stop`.
///
/// # Errors
/// None at present: whatever fails is tried again.
pub(crate) async fn run(shared: Arc<Shared>, stop: CancellationToken) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        match write_one_event(&shared).await {
            Ok(Some(written)) => {
                tracing::info!(written, "reminders written");
                shared.wake_senders();
                continue;
            }
            Ok(None) => {}
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "reminders can't be written; trying again");
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await;
    }
    Ok(())
}

/// The reminders of one event, so that no transaction grows with the number of events.
async fn write_one_event(shared: &Shared) -> Result<Option<u64>, sqlx::Error> {
    let (has_sms, now) = (shared.has_sms, shared.now());
    let writing = run_tx(&shared.db, "notifier write reminders", |tx| {
        Box::pin(notifications::put_reminders(tx, has_sms, now))
    });
    writing.await
}
