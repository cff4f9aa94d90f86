//! What the notifier counts.

use std::sync::Arc;
use std::time::Duration;

use metrics::{counter, gauge, histogram};
use tokio_util::sync::CancellationToken;

use crate::notice::Channel;
use crate::shared::Shared;
use crate::store::notifications;

const BACKLOG_INTERVAL: Duration = Duration::from_secs(10);

/// A try to send ended; `outcome` is what the row became.
pub(crate) fn try_ended(kind: &'static str, channel: Channel, outcome: &'static str) {
    let channel = channel.as_str();
    counter!("notifier_notices_total", "kind" => kind, "channel" => channel, "outcome" => outcome)
        .increment(1);
}

/// A server was asked to take a message, and it took so long.
pub(crate) fn sending_took(channel: Channel, duration: Duration) {
    histogram!("notifier_send_seconds", "channel" => channel.as_str())
        .record(duration.as_secs_f64());
}

/// Shows how many notifications are not settled, or wait for a person, until `stop`.
///
/// # Errors
/// None at present: whatever fails is tried again.
pub(crate) async fn watch_backlog(
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        match notifications::count_unsettled(&shared.db).await {
            Ok(backlog) => {
                let states = [
                    ("waiting", backlog.waiting),
                    ("sending", backlog.sending),
                    ("uncertain", backlog.uncertain),
                    ("failed", backlog.failed),
                ];
                for (state, notices) in states {
                    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
                    gauge!("notifier_backlog_notices", "state" => state).set(notices as f64);
                }
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the backlog can't be read");
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(BACKLOG_INTERVAL))
            .await;
    }
    Ok(())
}
