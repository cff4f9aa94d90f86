//! The texts of the `# HELP` lines of this service's metrics.

use platform::telemetry::MetricHelp;

pub(crate) const METRICS: MetricHelp = MetricHelp {
    counters: &[],
    gauges: &[(
        "onsale_stand_in_active",
        "1 while a stand-in takes the place of a real server.",
    )],
    histograms: &[],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_help() {
        platform::testing::assert_described(env!("CARGO_MANIFEST_DIR"), &METRICS);
    }
}
