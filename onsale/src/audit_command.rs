//! `onsale audit`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use domain::clock::SystemClock;
use secrecy::{ExposeSecret, SecretString};

use crate::audit::{self, Provider};
use crate::audit_lottery::{self, AuditLotteryArgs};
use crate::{DatabaseArgs, say};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    part: Option<AuditPart>,
    #[command(flatten)]
    database: Option<DatabaseArgs>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// How long to wait until nothing is in flight; 0 looks once, as a monitor does
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
    wait: u64,
    /// Stripe's secret key; without one there is nothing to compare our own records with
    #[arg(
        long,
        env = "STRIPE_SECRET_KEY",
        hide_env_values = true,
        default_value = ""
    )]
    stripe_secret_key: SecretString,
    /// Stripe's API, or a stand-in
    #[arg(
        long,
        env = "ONSALE_STRIPE_URL",
        default_value = "https://api.stripe.com"
    )]
    stripe_url: String,
}

#[derive(Subcommand)]
enum AuditPart {
    /// Check offline that the order of a lobby was drawn as promised
    Lottery(AuditLotteryArgs),
}

/// Exit status when no promise is broken but something is in flight.
const NOT_AT_REST: u8 = 3;

/// Runs the audit. The exit status is 0 at rest with every promise kept, 1 when a promise is
/// broken, and 3 when none is but something was in flight.
pub(crate) async fn run(args: &AuditArgs) -> anyhow::Result<ExitCode> {
    if let Some(AuditPart::Lottery(args)) = &args.part {
        return audit_lottery::run(args);
    }
    let database = args.database.as_ref();
    let db = database
        .context("say which database: set ONSALE_DATABASE_URL")?
        .connect_unlimited()
        .await?;
    let key = args.stripe_secret_key.expose_secret();
    let provider = if key.is_empty() {
        Provider::OwnRecords
    } else {
        Provider::stripe(&args.stripe_url, key)?
    };
    let patience = Duration::from_secs(args.wait);
    let report = audit::run(&db, &SystemClock::shared(), &provider, patience).await?;
    if args.json {
        say(serde_json::to_string_pretty(&report)?);
    } else {
        say(report.to_text().trim_end());
    }
    Ok(match (report.violations(), report.at_rest) {
        (0, true) => ExitCode::SUCCESS,
        (0, false) => ExitCode::from(NOT_AT_REST),
        _ => ExitCode::FAILURE,
    })
}
