//! The texts of the `# HELP` lines of this service's metrics.

use platform::telemetry::MetricHelp;

pub(crate) const METRICS: MetricHelp = MetricHelp {
    counters: &[
        ("waiting_room_challenges_total", "Challenges issued."),
        (
            "waiting_room_eta_outcomes_total",
            "Predicted waiting times by outcome.",
        ),
        ("waiting_room_joins_total", "Joins by outcome."),
        (
            "waiting_room_joins_unlimited_total",
            "Joins let in by the node's own limits alone, because Redis did not answer.",
        ),
        (
            "waiting_room_streams_refused_total",
            "Event streams refused because too many were open.",
        ),
    ],
    gauges: &[("waiting_room_streams", "Event streams that are open.")],
    histograms: &[
        (
            "waiting_room_eta_ratio",
            "Actual waiting times divided by predicted ones.",
        ),
        (
            "waiting_room_join_batch_size",
            "Joins that shared a transaction.",
        ),
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_help() {
        platform::testing::assert_described(env!("CARGO_MANIFEST_DIR"), &METRICS);
    }
}
