//! The texts of the `# HELP` lines of metrics. Each crate describes its own.

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// Pairs of a metric's name and its text.
type Texts = &'static [(&'static str, &'static str)];

/// The meaning of each metric of a crate: its name, and one sentence.
#[derive(Debug, Clone, Copy)]
pub struct MetricHelp {
    /// Help of counters.
    pub counters: Texts,
    /// Help of gauges.
    pub gauges: Texts,
    /// Help of histograms.
    pub histograms: Texts,
}

/// The metrics of this crate.
pub(super) const METRICS: MetricHelp = MetricHelp {
    counters: &[
        (
            "amqp_consumed_total",
            "Messages consumed by queue and verdict.",
        ),
        (
            "amqp_published_total",
            "Messages published by exchange and outcome.",
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
    ],
    gauges: &[
        (
            "amqp_blocked",
            "1 while RabbitMQ takes no messages because of an alarm.",
        ),
        (
            "amqp_dead_letters",
            "Messages put aside, by the queue they were meant for.",
        ),
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
            "onsale_stand_in_active",
            "1 while a stand-in takes the place of a real server.",
        ),
        (
            "outbox_lag_seconds",
            "Age of the oldest message in the outbox, by owner.",
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
    ],
    histograms: &[
        ("amqp_handling_seconds", "How long handlers took, by queue."),
        (
            "http_request_duration_seconds",
            "From a request's head to the beginning of its answer.",
        ),
        (
            "pg_tx_seconds",
            "Transactions by name and outcome, their repeats included.",
        ),
    ],
};

impl MetricHelp {
    /// Describes the metrics to the recorder that is installed; a repeat changes nothing.
    pub fn describe(&self) {
        for (name, help) in self.counters {
            describe_counter!(*name, *help);
        }
        for (name, help) in self.gauges {
            describe_gauge!(*name, *help);
        }
        for (name, help) in self.histograms {
            describe_histogram!(*name, *help);
        }
    }

    /// The names of all.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        let all = [self.counters, self.gauges, self.histograms];
        all.into_iter().flatten().map(|(name, _)| *name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_its_help() {
        crate::testing::assert_described(env!("CARGO_MANIFEST_DIR"), &METRICS);
    }
}
