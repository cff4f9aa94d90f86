//! `onsale reconcile`: compares our records of payments with Stripe's, now.

use std::process::ExitCode;

use anyhow::Context as _;
use chrono::TimeDelta;
use clap::Args;
use domain::clock::{Clock as _, SystemClock};

use crate::{DatabaseArgs, say};

#[derive(Args)]
pub(crate) struct ReconcileArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    config: payment_worker::Config,
    /// Days back that settled payments are compared, too
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(0..=365))]
    days: u16,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Compares, repairs what has one right answer, and lists the rest. The exit status is 1 when there
/// are findings, or when something could not be compared.
pub(crate) async fn run(args: &ReconcileArgs) -> anyhow::Result<ExitCode> {
    let db = args.database.connect().await?;
    let since = SystemClock.now() - TimeDelta::days(args.days.into());
    let clock = SystemClock::shared();
    let reconciled = payment_worker::reconcile(db, clock, &args.config, since)
        .await
        .context("comparing with Stripe")?;
    if args.json {
        say(serde_json::to_string_pretty(&reconciled)?);
    } else {
        say(format_args!(
            "{} PaymentIntents compared, {} payments and refunds repaired",
            reconciled.compared, reconciled.repaired
        ));
        if reconciled.failed > 0 {
            say(format_args!(
                "{} could not be compared: run it again",
                reconciled.failed
            ));
        }
        for finding in &reconciled.findings {
            let booking = finding.booking_id.map(|id| format!(", booking {id}"));
            say(format_args!(
                "{} {} {}{}: {}",
                finding.found_at.format("%Y-%m-%d %H:%M"),
                finding.kind,
                finding.subject,
                booking.unwrap_or_default(),
                finding.detail
            ));
        }
    }
    Ok(
        if reconciled.findings.is_empty() && reconciled.failed == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        },
    )
}
