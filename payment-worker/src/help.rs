//! The texts of the `# HELP` lines of this service's metrics.

use platform::telemetry::MetricHelp;

pub(crate) const METRICS: MetricHelp = MetricHelp {
    counters: &[
        (
            "payment_worker_findings_total",
            "Differences found between our records and Stripe's.",
        ),
        (
            "payment_worker_stripe_requests_total",
            "Calls to Stripe by operation and outcome.",
        ),
        (
            "payment_worker_swept_total",
            "Messages that were made up for because they had no effect.",
        ),
        (
            "payment_worker_webhooks_total",
            "Webhooks by type and outcome.",
        ),
    ],
    gauges: &[(
        "payment_worker_operations_pending",
        "Operations at Stripe that are not done, by kind.",
    )],
    histograms: &[
        (
            "payment_worker_stripe_request_duration_seconds",
            "How long Stripe took, by operation.",
        ),
        (
            "payment_worker_webhook_lag_seconds",
            "From what happened at Stripe to its webhook.",
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
