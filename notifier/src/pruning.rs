//! Removes what was said of events that are long over.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;
use crate::store::pruning;

/// From one look for old rows to the next.
const INTERVAL: Duration = Duration::from_secs(3_600);
/// The pause between two statements, so that a large removal disturbs nobody.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs until `stop`.
///
/// # Errors
/// None at present: whatever fails is tried again.
pub(crate) async fn run(
    shared: Arc<Shared>,
    after: TimeDelta,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        let before = shared.now() - after;
        let pause = match pruning::remove_some(&shared.db, before).await {
            Ok(0) => INTERVAL,
            Ok(rows) => {
                tracing::info!(rows, "rows of events long over removed");
                PAUSE
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "old rows not removed; trying again");
                INTERVAL
            }
        };
        stop.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
    Ok(())
}
