//! What the notifier counts.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::{counter, gauge, histogram};
use tokio_util::sync::CancellationToken;

use crate::notice::{Channel, KINDS};
use crate::shared::Shared;
use crate::store::queue::{self, Backlog};

const BACKLOG_INTERVAL: Duration = Duration::from_secs(10);

/// A try to send ended; `outcome` is what the row became.
pub(crate) fn try_ended(kind: &'static str, channel: Channel, outcome: &'static str) {
    let channel = channel.as_str();
    counter!("notifier_notices_total", "kind" => kind, "channel" => channel, "outcome" => outcome)
        .increment(1);
}

/// A try failed for this reason.
pub(crate) fn failed(channel: Channel, reason: &'static str) {
    counter!("notifier_failures_total", "channel" => channel.as_str(), "reason" => reason)
        .increment(1);
}

/// A server was asked to take a message, and it took so long.
pub(crate) fn sending_took(channel: Channel, duration: Duration) {
    histogram!("notifier_send_seconds", "channel" => channel.as_str())
        .record(duration.as_secs_f64());
}

/// Shows how many notifications of each kind are not settled, or wait for a person, and how old the
/// oldest is that waits, until `stop`.
///
/// # Errors
/// None at present: whatever fails is tried again.
pub(crate) async fn watch_backlog(
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        match queue::count_unsettled(&shared.db).await {
            Ok(backlog) => show(&backlog, shared.now()),
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

/// Kinds of later versions are counted as `other`.
#[expect(clippy::cast_precision_loss, reason = "gauges")]
fn show(backlog: &[Backlog], now: DateTime<Utc>) {
    let of = |state: &str| {
        let rows = backlog.iter().filter(move |row| row.state == state);
        rows.map(|row| row.notices).sum::<i64>()
    };
    for state in ["waiting", "sending", "uncertain", "failed"] {
        gauge!("notifier_backlog_notices", "state" => state).set(of(state) as f64);
    }
    let known = KINDS.map(|(kind, _)| kind);
    let age_of = |is_it: &dyn Fn(&str) -> bool| {
        let waiting = backlog.iter().filter(|row| row.state == "waiting");
        let oldest = waiting.filter(|row| is_it(&row.kind)).map(|row| row.oldest);
        let age = oldest
            .min()
            .map_or(0, |oldest| (now - oldest).num_milliseconds());
        age.max(0) as f64 / 1_000.0
    };
    for kind in known {
        let age = age_of(&|of| of == kind);
        gauge!("notifier_oldest_waiting_seconds", "kind" => kind).set(age);
    }
    let age = age_of(&|of| !known.contains(&of));
    gauge!("notifier_oldest_waiting_seconds", "kind" => "other").set(age);
}
