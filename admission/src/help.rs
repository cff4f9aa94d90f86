//! The texts of the `# HELP` lines of this service's metrics.

use platform::telemetry::MetricHelp;

pub(crate) const METRICS: MetricHelp = MetricHelp {
    counters: &[
        (
            "admission_booking_requests_total",
            "Booking requests by outcome.",
        ),
        (
            "admission_calls_total",
            "Places called to claim their pass.",
        ),
        ("admission_claims_total", "Claims of a pass by outcome."),
        (
            "admission_eta_outcomes_total",
            "Called places by outcome of their predicted waiting time.",
        ),
        (
            "admission_leader_resignations_total",
            "Times a node gave up its shards because its release loop failed.",
        ),
        ("admission_revocations_total", "Passes revoked by staff."),
        (
            "admission_sale_failures_total",
            "Steps of one sale that failed, by step.",
        ),
        (
            "admission_shopped_total",
            "Passes that ended because their booking was made.",
        ),
        (
            "admission_tick_failures_total",
            "Ticks of the release loop that failed or took too long.",
        ),
    ],
    gauges: &[
        (
            "admission_brake_percent",
            "Percentage of the set rate that the brake lets through.",
        ),
        (
            "admission_clock_offset_seconds",
            "The database's clock minus this node's.",
        ),
        (
            "admission_leader",
            "Shards of the release loop that this node leads.",
        ),
        ("admission_led_sales", "Sales whose line this node leads."),
        (
            "admission_quarantined_sales",
            "Sales that are left out of ticks for a while because their steps failed.",
        ),
        ("admission_shoppers", "Passes that run, of all sales."),
        (
            "admission_waiting_places",
            "Places that wait to be called, of all sales.",
        ),
    ],
    histograms: &[
        (
            "admission_claim_batch_size",
            "Claims that shared a transaction.",
        ),
        (
            "admission_outcome_wait_seconds",
            "Time for which booking requests waited for their outcome.",
        ),
        (
            "admission_tick_seconds",
            "Duration of a tick of the release loop.",
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
