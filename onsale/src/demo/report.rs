//! The demo's report.

use std::fmt::Write as _;

use serde::Serialize;
use surge::buyer::Quantiles;

use super::DemoArgs;
use super::crowd::Crowd;
use super::mailbox::Mailbox;
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
        let _infallible = writeln!(
            text,
            "\n{} buyers in {:.0} s: {} confirmed, {} confirmed and cancelled, {} left unpaid, {} found it \
             sold out, {} rejected, {} missed their turn, {} left the queue, {} failed",
            self.buyers,
            self.crowd.seconds,
            fates.confirmed,
            fates.cancelled,
            fates.unpaid,
            fates.sold_out,
            fates.rejected,
            fates.missed,
            fates.left,
            fates.failed
        );
        for error in &fates.errors {
            let _infallible = writeln!(text, "  failed: {error}");
        }
        let latencies = &self.crowd.latencies;
        text.push_str("                    p50        p90        p99        max\n");
        text.push_str(&line("join", latencies.join));
        text.push_str(&line("wait for pass", latencies.wait_for_pass));
        text.push_str(&line("book to held", latencies.hold));
        text.push_str(&line("pay to ticket", latencies.confirm));
        let mailbox = &self.mailbox;
        let _infallible = writeln!(
            text,
            "mailbox: {} mails; {} confirmed bookings, {} without their confirmation, {} with more than one\n",
            mailbox.mails,
            mailbox.confirmed,
            mailbox.without_confirmation.len(),
            mailbox.confirmed_twice.len()
        );
        text.push_str(&self.audit.to_text());
        text
    }
}

fn line(step: &str, times: Quantiles) -> String {
    let Quantiles {
        p50_ms,
        p90_ms,
        p99_ms,
        max_ms,
        ..
    } = times;
    format!("  {step:<13} {p50_ms:>6} ms  {p90_ms:>6} ms  {p99_ms:>6} ms  {max_ms:>6} ms\n")
}
