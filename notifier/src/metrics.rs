//! Metrics of the notifier.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use metrics::{counter, gauge, histogram};
use tokio_util::sync::CancellationToken;

use crate::notice::{Channel, NoticeKind};
use crate::state::AppState;
use crate::store::queue::{self, Backlog};

const BACKLOG_INTERVAL: Duration = Duration::from_secs(10);

/// Counts an ended attempt; `outcome` is the row's new state, or `put_off`.
pub(crate) fn attempt_ended(kind: &'static str, channel: Channel, outcome: &'static str) {
    let channel = channel.as_str();
    counter!("notifier_notices_total", "kind" => kind, "channel" => channel, "outcome" => outcome)
        .increment(1);
}

/// Counts a failed attempt by reason.
pub(crate) fn failed(channel: Channel, reason: &'static str) {
    counter!("notifier_failures_total", "channel" => channel.as_str(), "reason" => reason)
        .increment(1);
}

/// Records the duration of a delivery attempt, successful or not.
pub(crate) fn attempt_took(channel: Channel, duration: Duration) {
    histogram!("notifier_send_seconds", "channel" => channel.as_str())
        .record(duration.as_secs_f64());
}

/// Updates the backlog gauges every ten seconds until `stop`: unsettled notifications by state, and
/// the age of the oldest waiting one by kind.
///
/// # Errors
/// None at present: failures are retried.
pub(crate) async fn watch_backlog(
    state: Arc<AppState>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        match queue::count_unsettled(&state.db).await {
            Ok(backlog) => show(&backlog, state.now()),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "failed to read backlog");
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(BACKLOG_INTERVAL))
            .await;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "gauges")]
fn show(backlog: &[Backlog], now: DateTime<Utc>) {
    let of = |state: &str| {
        let rows = backlog.iter().filter(move |row| row.state == state);
        rows.map(|row| row.notices).sum::<i64>()
    };
    for state in ["waiting", "sending", "uncertain", "failed"] {
        gauge!("notifier_backlog_notices", "state" => state).set(of(state) as f64);
    }
    for (kind, oldest) in oldest_waiting(backlog) {
        let age = oldest.map_or(0, |oldest| (now - oldest).num_milliseconds());
        let seconds = age.max(0) as f64 / 1_000.0;
        gauge!("notifier_oldest_waiting_seconds", "kind" => kind).set(seconds);
    }
}

/// Returns the time of the oldest waiting notification of each kind; kinds unknown to this version
/// are grouped as `other`.
fn oldest_waiting(backlog: &[Backlog]) -> Vec<(&'static str, Option<DateTime<Utc>>)> {
    let known: Vec<_> = NoticeKind::ALL.iter().map(|kind| kind.as_str()).collect();
    let oldest = |is_it: &dyn Fn(&str) -> bool| {
        let waiting = backlog.iter().filter(|row| row.state == "waiting");
        let of_kind = waiting.filter(|row| is_it(&row.kind));
        of_kind.map(|row| row.oldest).min()
    };
    let mut all: Vec<_> = known
        .iter()
        .map(|kind| (*kind, oldest(&|of| of == *kind)))
        .collect();
    all.push(("other", oldest(&|of| !known.contains(&of))));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_waits_is_shown_by_kind_and_what_failed_is_not_waiting() {
        let at = |minute: i64| DateTime::from_timestamp(minute * 60, 0).unwrap();
        let row = |kind: &str, state: &str, minute| Backlog {
            kind: kind.to_owned(),
            state: state.to_owned(),
            notices: 1,
            oldest: at(minute),
        };
        let backlog = [
            row("confirmed", "failed", 1),
            row("confirmed", "waiting", 3),
            row("tomorrow", "waiting", 5),
            row("next_week", "waiting", 4),
        ];
        let waiting: Vec<_> = oldest_waiting(&backlog)
            .into_iter()
            .filter(|(_, oldest)| oldest.is_some())
            .collect();
        let expected = [("confirmed", Some(at(3))), ("other", Some(at(4)))];
        assert_eq!(waiting, expected);
    }
}
