//! The demo's report.

use std::fmt::Write as _;

use serde::Serialize;
use surge::buyer::Quantiles;

use super::DemoArgs;
use super::crowd::Crowd;
use super::mailbox::Mailbox;
use super::picture::{grouped, seconds};
use crate::audit::Report;

#[derive(Debug, Serialize)]
pub(super) struct DemoReport {
    seats: u32,
    buyers: u32,
    rate_per_minute: u32,
    seed: u64,
    #[serde(flatten)]
    crowd: Crowd,
    mailbox: Mailbox,
    audit: Report,
}

impl DemoReport {
    pub(super) fn new(args: &DemoArgs, crowd: Crowd, audit: Report, mailbox: Mailbox) -> Self {
        let DemoArgs {
            seats,
            buyers,
            rate,
            seed,
            ..
        } = *args;
        Self {
            seats,
            buyers,
            rate_per_minute: rate,
            seed,
            crowd,
            mailbox,
            audit,
        }
    }

    /// Returns whether no promise was broken, by the audit, the mailbox and the buyers.
    pub(super) fn is_clean(&self) -> bool {
        self.audit.violations() == 0
            && self.audit.at_rest
            && self.mailbox.violations() == 0
            && self.crowd.fates.failed == 0
    }

    /// Renders the report for a terminal, the audit last.
    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        let fates = &self.crowd.fates;
        let buyers = |count: u32| grouped(u64::from(count));
        let _infallible = writeln!(
            text,
            "\nThe sale took {:.0} s. Of {} buyers for {} seats\n  \
             {} have tickets, {} had some and cancelled, {} did not pay in time,\n  \
             {} found everything sold, {} missed their turn, {} left the queue,\n  \
             {} were refused for another reason, {} failed\n",
            self.crowd.seconds,
            buyers(self.buyers),
            buyers(self.seats),
            buyers(fates.confirmed),
            buyers(fates.cancelled),
            buyers(fates.unpaid),
            buyers(fates.sold_out + fates.waiting),
            buyers(fates.missed),
            buyers(fates.left),
            buyers(fates.rejected),
            buyers(fates.failed)
        );
        for error in &fates.errors {
            let _infallible = writeln!(text, "  failed: {error}");
        }
        let latencies = &self.crowd.latencies;
        let _infallible = writeln!(
            text,
            "{:<16}{:>10}{:>10}{:>12}{:>10}",
            "waits", "half", "9 of 10", "99 of 100", "longest"
        );
        text.push_str(&line("to join", latencies.join));
        text.push_str(&line("for the turn", latencies.wait_for_pass));
        text.push_str(&line("for seats", latencies.hold));
        text.push_str(&line("for tickets", latencies.confirm));
        let mailbox = &self.mailbox;
        let _infallible = writeln!(
            text,
            "\n{} mails; of {} confirmed bookings {} lack their mail, {} have it twice\n",
            grouped(mailbox.mails as u64),
            grouped(mailbox.confirmed as u64),
            mailbox.without_confirmation.len(),
            mailbox.confirmed_twice.len()
        );
        text.push_str(&self.audit.to_text());
        text
    }
}

fn line(step: &str, times: Quantiles) -> String {
    let [half, most, nearly_all, longest] =
        [times.p50_ms, times.p90_ms, times.p99_ms, times.max_ms].map(seconds);
    format!("  {step:<14}{half:>10}{most:>10}{nearly_all:>12}{longest:>10}\n")
}
