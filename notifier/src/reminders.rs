//! Writes reminders when their time comes.

use std::sync::Arc;
use std::time::Duration;

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
        match notifications::put_reminders(&shared.db, shared.has_sms, shared.now()).await {
            Ok(0) => {}
            Ok(written) => {
                tracing::info!(written, "reminders written");
                shared.wake_senders();
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "reminders can't be written; trying again");
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await;
    }
    Ok(())
}
