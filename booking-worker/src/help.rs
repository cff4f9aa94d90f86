//! The texts of the `# HELP` lines of this service's metrics.

use platform::telemetry::MetricHelp;

pub(crate) const METRICS: MetricHelp = MetricHelp {
    counters: &[
        ("booking_held_seats_total", "Seats set aside for bookings."),
        ("booking_holds_total", "Bookings that got seats."),
        (
            "booking_rejections_total",
            "Booking requests without seats, by reason.",
        ),
        (
            "booking_swept_total",
            "Messages that were published again because they had no effect.",
        ),
    ],
    gauges: &[
        (
            "booking_expiry_lag_seconds",
            "For how long the oldest hold that ran out has not ended.",
        ),
        ("booking_seats", "Seats by state, of all events."),
    ],
    histograms: &[(
        "booking_batch_requests",
        "Booking requests that shared a transaction.",
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
