//! `onsale demo`: a whole flash sale with simulated buyers, on real servers, through real HTTP.

mod crowd;
mod house;
mod mailbox;
mod picture;
mod progress;
mod report;
mod seed;
mod stage;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};

use crate::audit;
use crate::say;
use house::House;
use progress::Progress;
use report::DemoReport;
use stage::Stage;

/// Exit status of an interrupted command, as a shell reports it.
const INTERRUPTED: u8 = 130;
/// Longest wait for the pipeline to be at rest after the last buyer has left.
const REST: Duration = Duration::from_secs(120);

/// The size of the sale.
#[derive(Args)]
pub(crate) struct DemoArgs {
    /// Seats of the event
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    seats: u32,
    /// Simulated buyers
    #[arg(long, value_name = "N", default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    buyers: u32,
    /// Most people let in per minute
    #[arg(long, value_name = "N", default_value_t = 1_200, value_parser = clap::value_parser!(u32).range(1..=600_000))]
    rate: u32,
    /// Exit when the sale is over, instead of staying up for a visit
    #[arg(long)]
    exit: bool,
    /// Write the funnel, the latencies and the audit to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Seed of the buyers' plans; the same seed is the same crowd
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// PostgreSQL; the demo creates a database of its own there
    #[arg(
        long,
        value_name = "URL",
        env = "ONSALE_DATABASE_URL",
        hide_env_values = true
    )]
    database_url: SecretString,
    /// Redis
    #[arg(
        long,
        value_name = "URL",
        env = "ONSALE_REDIS_URL",
        hide_env_values = true
    )]
    redis_url: SecretString,
    /// RabbitMQ
    #[arg(
        long,
        value_name = "URL",
        env = "ONSALE_AMQP_URL",
        hide_env_values = true
    )]
    amqp_url: SecretString,
}

/// Runs the sale. The exit status is 1 when a promise was broken.
pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    say("Onsale demo: starting");
    let interrupted = interruption()?;
    tokio::pin!(interrupted);
    let stage = Box::pin(Stage::set(&args)).await?;
    let outcome = tokio::select! {
        outcome = perform(&args, &stage) => outcome,
        // The servers may outlive the demo; its database and queues must not.
        () = &mut interrupted => {
            say("\ninterrupted: removing the demo's database and queues");
            stage.tear_down().await;
            return Ok(ExitCode::from(INTERRUPTED));
        }
    };
    let code = match outcome {
        Ok(report) => {
            let code = if report.is_clean() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            };
            if !args.exit {
                interrupted.await;
                say("\nending: removing the demo's database and queues");
            }
            Ok(code)
        }
        Err(error) => Err(error),
    };
    stage.tear_down().await;
    code
}

/// Resolves when the demo is asked to end, by Ctrl-C or SIGTERM.
fn interruption() -> anyhow::Result<impl Future<Output = ()>> {
    let context = "listening for signals";
    let mut interrupt = signal(SignalKind::interrupt()).context(context)?;
    let mut terminate = signal(SignalKind::terminate()).context(context)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

async fn perform(args: &DemoArgs, stage: &Stage) -> anyhow::Result<DemoReport> {
    let event_id = seed::event(stage, args.seats, args.rate)
        .await
        .context("seeding the event")?;
    stage.print_addresses(event_id);
    let sessions = crowd::enrol(stage, args.buyers)
        .await
        .context("creating the buyers' accounts")?;
    let house = House::watch(stage, event_id)?;
    let progress = Progress::start(args, house.shown(), stage.mail().inbox().clone());
    let outcome = crowd::run(stage, event_id, sessions, args.seed, &house, &progress).await;
    progress.finish().await;
    let crowd = outcome?;
    say("The sale is over. The audit begins when nothing is in flight any more.");
    let audit = audit::run(stage.db(), stage.clock(), stage.provider(), REST).await?;
    let mailbox = mailbox::check(stage.mail().inbox(), &crowd.confirmed);
    let report = DemoReport::new(args, crowd, audit, mailbox);
    if let Some(file) = &args.json {
        let json = serde_json::to_vec_pretty(&report)?;
        tokio::fs::write(file, json)
            .await
            .with_context(|| format!("writing {}", file.display()))?;
    }
    say(report.to_text().trim_end());
    if !args.exit {
        say("");
        stage.print_addresses(event_id);
        stage.print_exports();
        say("The pages stay up. Ctrl-C ends the demo.");
    }
    Ok(report)
}
