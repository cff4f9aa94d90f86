//! Retention sweep: deletes notifications and bookings of events long past, in batches.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use crate::state::AppState;
use crate::store::pruning;

/// Interval between two sweeps.
const INTERVAL: Duration = Duration::from_secs(3_600);
/// Pause between two batches, to bound the load on the database.
const PAUSE: Duration = Duration::from_millis(200);

/// Sweeps until `stop`; rows are kept for `after` past the event.
///
/// # Errors
/// None at present: failures are retried.
pub(crate) async fn run(
    state: Arc<AppState>,
    after: TimeDelta,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        let before = state.now() - after;
        let pause = match pruning::remove_some(&state.db, before).await {
            Ok(0) => INTERVAL,
            Ok(rows) => {
                tracing::info!(rows, "deleted rows of past events");
                PAUSE
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "failed to delete rows of past events, retrying");
                INTERVAL
            }
        };
        stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
    Ok(())
}
