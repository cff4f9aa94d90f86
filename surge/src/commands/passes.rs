//! `surge passes`: claims a second at one node, beside a handler that does nothing and beside the
//! same statements run by pgbench.

mod pgbench;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::ensure;
use serde_json::json;

use super::bare::{Bare, Canned};
use super::load::{self, End, Load, Pace, Requests};
use super::rounds::{Rounds, Side};
use super::subject::{self, SEATS, Subject};
use super::{machine, say};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    subject: subject::Args,
    /// Connections that claim
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Rounds of each side
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Claims of a round
    #[arg(long, default_value_t = 5_000)]
    per_round: i64,
    /// The pgbench to use
    #[arg(long, default_value = "pgbench")]
    pgbench: PathBuf,
    /// Seconds that pgbench takes
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// Print the row of docs/BENCHMARKS.md at the end
    #[arg(long)]
    markdown: bool,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let total = i64::from(args.rounds + 1) * args.per_round;
    ensure!(
        total <= SEATS,
        "the event has {SEATS} seats: ask for fewer rounds or claims"
    );
    say(format_args!(
        "{}; the load, Onsale, the bare handlers and the servers share them",
        machine::class()
    ));
    let subject = Subject::start(&args.subject).await?;
    let open = json!({
        "rate_per_minute": 600_000, "shopper_cap": SEATS, "claim_window_seconds": 3_600,
    });
    subject.change_sale(&open).await?;
    call(&args, &subject, total).await?;
    let (onsale, bare) = compare(&args, &subject).await?;
    let batch = subject.mean_claim_batch().await?;
    let pgbench =
        pgbench::claims_per_second(&args.pgbench, subject.database_url()?, batch, args.seconds)
            .await?;
    subject.tear_down().await?;

    let against_bare = 100.0 * onsale.per_second() / bare.per_second();
    let against_pgbench = 100.0 * onsale.per_second() / pgbench;
    say(format_args!(
        "passes: {:.0}/s in batches of {batch} on average; bare POST {:.0}/s: {against_bare:.0} %; \
         pgbench with that batch {pgbench:.0} claims/s: {against_pgbench:.0} %; CPU {:.1} us a \
         claim, bare {:.1}",
        onsale.per_second(),
        bare.per_second(),
        onsale.cpu_us(),
        bare.cpu_us(),
    ));
    if args.markdown {
        say(format_args!(
            "| {:.0} | {:.0} | {against_bare:.0} % | {pgbench:.0} (batches of {batch}) | \
             {against_pgbench:.0} % | {:.1} / {:.1} |",
            onsale.per_second(),
            bare.per_second(),
            onsale.cpu_us(),
            bare.cpu_us(),
        ));
    }
    Ok(())
}

/// Joins `total` accounts and waits until they are called.
async fn call(args: &Args, subject: &Subject, total: i64) -> anyhow::Result<()> {
    let joins: Requests = Arc::new((1..=total).map(|account| subject.join(account)).collect());
    load::run(&load(args, subject), &joins).await?.check()?;
    subject.wait_until_called(total).await
}

/// Runs alternating rounds; every claim is of another place.
async fn compare(args: &Args, subject: &Subject) -> anyhow::Result<(Rounds, Rounds)> {
    let bare_process = Bare::start(&Canned::default()).await?;
    let onsale = Side {
        name: "onsale",
        address: subject.address,
        pid: subject.pid(),
    };
    let bare = Side {
        name: "bare POST",
        address: bare_process.address,
        pid: Some(bare_process.pid),
    };
    let load = load(args, subject);
    say(format_args!(
        "{} claims a round, {} connections, closed loop:",
        args.per_round, args.connections
    ));
    let mut sides = (Rounds::default(), Rounds::default());
    for round in 0..=i64::from(args.rounds) {
        let first = round * args.per_round + 1;
        let requests: Requests = Arc::new(
            (first..first + args.per_round)
                .map(|number| subject.claim(number))
                .collect(),
        );
        onsale.round(&load, &requests, &mut sides.0).await?;
        bare.round(&load, &requests, &mut sides.1).await?;
        if round == 0 {
            // The first round warms both up.
            sides = (Rounds::default(), Rounds::default());
        }
    }
    Ok(sides)
}

fn load(args: &Args, subject: &Subject) -> Load {
    Load {
        target: subject.address,
        connections: args.connections,
        pace: Pace::Closed,
        end: End::EachOnce,
    }
}
