//! The texts of the `# HELP` lines of this service's metrics.

use platform::telemetry::MetricHelp;

pub(crate) const METRICS: MetricHelp = MetricHelp {
    counters: &[
        (
            "notifier_failures_total",
            "Tries to send that failed, by channel and reason.",
        ),
        ("notifier_notices_total", "Notices by kind and outcome."),
    ],
    gauges: &[
        (
            "notifier_backlog_notices",
            "Notices by state that are not sent.",
        ),
        (
            "notifier_breaker_open",
            "1 while the server of a channel can't be used and is only probed.",
        ),
        (
            "notifier_oldest_waiting_seconds",
            "Age of the oldest notice that waits, by kind.",
        ),
    ],
    histograms: &[(
        "notifier_send_seconds",
        "How long the mail server or SMS provider took.",
    )],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_help() {
        platform::testing::assert_described(env!("CARGO_MANIFEST_DIR"), &METRICS);
    }
}
