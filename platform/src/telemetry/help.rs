//! What each metric means: its `# HELP` line.

use metrics::{describe_counter, describe_gauge, describe_histogram};

const COUNTERS: &[(&str, &str)] = &[
    (
        "payment_worker_swept_total",
        "Messages that were made up for because they had no effect.",
    ),
    (
        "admission_tick_failures_total",
        "Ticks of the release loop that failed or took too long.",
    ),
    (
        "admission_shopped_total",
        "Passes that ended because their booking was made.",
    ),
    (
        "admission_sale_failures_total",
        "Steps of one sale that failed, by step.",
    ),
    (
        "admission_leader_resignations_total",
        "Times a node gave up its shards because its release loop failed.",
    ),
    (
        "admission_booking_requests_total",
        "Booking requests by how they were answered.",
    ),
    (
        "admission_calls_total",
        "Places called to claim their pass.",
    ),
    ("admission_claims_total", "Claims of a pass by outcome."),
    (
        "admission_eta_outcomes_total",
        "Called places by how the waiting time they were told turned out.",
    ),
    ("admission_revocations_total", "Passes taken back by staff."),
    (
        "amqp_consumed_total",
        "Messages consumed by queue and verdict.",
    ),
    (
        "amqp_published_total",
        "Messages published by exchange and outcome.",
    ),
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
    (
        "http_connections_refused_total",
        "Connections refused because the address or the process had too many.",
    ),
    (
        "http_requests_total",
        "Requests by route, method and class of status; gone: the client hung up.",
    ),
    (
        "http_untrusted_forwarders_total",
        "Listeners that saw X-Forwarded-For from a peer that is not trusted.",
    ),
    (
        "log_lines_dropped_total",
        "Log lines dropped because standard error took them too slowly.",
    ),
    (
        "notifier_failures_total",
        "Tries to send that failed, by channel and reason.",
    ),
    ("notifier_notices_total", "Notices by kind and outcome."),
    (
        "payment_worker_findings_total",
        "Differences found between our records and Stripe's.",
    ),
    (
        "payment_worker_stripe_requests_total",
        "Calls to Stripe by operation and outcome.",
    ),
    (
        "payment_worker_webhooks_total",
        "Webhooks by type and outcome.",
    ),
    (
        "pg_deadlines_expired_total",
        "Waits for PostgreSQL that ended at their deadline.",
    ),
    (
        "pg_tx_retries_total",
        "Transactions repeated after a deadlock or a serialization failure.",
    ),
    (
        "process_cpu_seconds_total",
        "Processor time of the process, in seconds.",
    ),
    (
        "waiting_room_challenges_total",
        "Challenges by what became of them.",
    ),
    (
        "waiting_room_eta_outcomes_total",
        "Waiting times told, by how they turned out.",
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
];

const GAUGES: &[(&str, &str)] = &[
    (
        "onsale_stand_in_active",
        "1 while a stand-in takes the place of a real server.",
    ),
    (
        "admission_quarantined_sales",
        "Sales that are left out of ticks for a while because their steps failed.",
    ),
    ("admission_led_sales", "Sales whose line this node leads."),
    (
        "admission_leader",
        "Shards of the release loop that this node leads.",
    ),
    (
        "admission_clock_offset_seconds",
        "By how much the database's clock is ahead of this node's.",
    ),
    (
        "admission_brake_percent",
        "How much of the rate the brake lets through; 100 is all.",
    ),
    ("admission_shoppers", "Passes that run, of all sales."),
    (
        "admission_waiting_places",
        "Places that wait to be called, of all sales.",
    ),
    (
        "amqp_blocked",
        "1 while RabbitMQ takes no messages because of an alarm.",
    ),
    (
        "amqp_dead_letters",
        "Messages put aside, by the queue they were meant for.",
    ),
    (
        "booking_expiry_lag_seconds",
        "For how long the oldest hold that ran out has not ended.",
    ),
    ("booking_seats", "Seats by state, of all events."),
    ("build_info", "1, with the version of the program."),
    ("db_pool_connections", "Connections to PostgreSQL by state."),
    (
        "dependency_up",
        "1 for each server behind the process that can serve it.",
    ),
    ("http_connections", "Connections of clients that are open."),
    (
        "http_requests_in_flight",
        "Requests whose answer has not begun.",
    ),
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
    (
        "outbox_lag_seconds",
        "Age of the oldest message in the outbox, by owner.",
    ),
    (
        "payment_worker_operations_pending",
        "Operations at Stripe that are not done, by kind.",
    ),
    ("process_max_fds", "Files that the process may have open."),
    ("process_open_fds", "Files that the process has open."),
    (
        "process_resident_memory_bytes",
        "Memory of the process that is not swapped out.",
    ),
    (
        "process_start_time_seconds",
        "When the process began, in Unix seconds.",
    ),
    ("process_threads", "Threads of the process."),
    ("waiting_room_streams", "Event streams that are open."),
];

const HISTOGRAMS: &[(&str, &str)] = &[
    (
        "admission_tick_seconds",
        "How long a tick of the release loop took.",
    ),
    (
        "admission_claim_batch_size",
        "Claims that shared a transaction.",
    ),
    (
        "admission_outcome_wait_seconds",
        "How long booking requests waited for their outcome.",
    ),
    ("amqp_handling_seconds", "How long handlers took, by queue."),
    (
        "booking_batch_requests",
        "Booking requests that shared a transaction.",
    ),
    (
        "http_request_duration_seconds",
        "From a request's head to the beginning of its answer.",
    ),
    (
        "notifier_send_seconds",
        "How long the mail server or SMS provider took.",
    ),
    (
        "payment_worker_stripe_request_duration_seconds",
        "How long Stripe took, by operation.",
    ),
    (
        "payment_worker_webhook_lag_seconds",
        "From what happened at Stripe to its webhook.",
    ),
    (
        "pg_tx_seconds",
        "Transactions by name and outcome, their repeats included.",
    ),
    (
        "waiting_room_eta_ratio",
        "Waiting times as they turned out, divided by those told.",
    ),
    (
        "waiting_room_join_batch_size",
        "Joins that shared a transaction.",
    ),
];

/// Describes every metric to the recorder.
pub(super) fn describe_all() {
    for (name, help) in COUNTERS {
        describe_counter!(*name, *help);
    }
    for (name, help) in GAUGES {
        describe_gauge!(*name, *help);
    }
    for (name, help) in HISTOGRAMS {
        describe_histogram!(*name, *help);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The names that the sources below `folder` measure.
    fn measured(folder: &Path, names: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                measured(&path, names);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let source = fs::read_to_string(&path).unwrap();
                for word in ["counter!(", "gauge!(", "histogram!("] {
                    for (at, _) in source.match_indices(word) {
                        let rest = source[at + word.len()..].trim_start();
                        let quoted = rest.strip_prefix('"').and_then(|rest| rest.split_once('"'));
                        let is_name =
                            |name: &str| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                        names.extend(
                            quoted
                                .filter(|(name, _)| is_name(name))
                                .map(|(name, _)| name.to_owned()),
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn every_metric_says_what_it_means() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut names = BTreeSet::new();
        for service in [
            "platform",
            "waiting-room",
            "admission",
            "box-office",
            "booking-worker",
            "payment-worker",
            "notifier",
        ] {
            measured(&root.join(service).join("src"), &mut names);
        }
        let described: BTreeSet<String> = [COUNTERS, GAUGES, HISTOGRAMS]
            .concat()
            .into_iter()
            .map(|(name, _)| name.to_owned())
            .collect();
        assert_eq!(names, described);
    }
}
