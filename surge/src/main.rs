//! `surge`: the load tool. Each command measures one figure, and in the same run the baseline it is
//! compared with; `faults` checks the promises instead.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{
    bare, bots, faults, joins, opening, passes, payments, polls, reads, sell_out, simulate, streams,
};

/// The allocator of Onsale, so that it and the bare handlers differ in their work alone.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Onsale, and in the same run the best this machine could do.
#[derive(Parser)]
#[command(name = "surge", version, about, max_term_width = 100)]
struct Surge {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Poll places: requests a second, and what Redis does meanwhile
    Polls(polls::Args),
    /// Join: requests a second, and the memory that a long line takes
    Joins(joins::Args),
    /// Let everybody arrive signed out behind a few addresses: sign-ins, joins, and 429s
    Opening(opening::Args),
    /// Claim passes: claims a second, beside PostgreSQL alone
    Passes(passes::Args),
    /// Hold streams open: how fast a snapshot reaches all, and the memory they take
    Streams(streams::Args),
    /// Run whole sales on a virtual clock, and check that order, places, rate and cap hold
    Simulate(simulate::Args),
    /// Sell a house out: seats held and tickets confirmed a second, and how long a buyer waits
    SellOut(sell_out::Args),
    /// Read availability and seats while a sale runs
    Reads(reads::Args),
    /// Attack with robots that solve proof of work: how many get through, and what a person pays
    Bots(bots::Args),
    /// Sell at Stripe's limits: payments a second, refusals with 429, and what bounds them
    Payments(payments::Args),
    /// Fail servers and services during small sales: what buyers lose, and how long it takes to
    /// recover
    Faults(faults::Args),
    /// Serve handlers that do nothing, the baseline of the other commands
    #[command(hide = true)]
    Bare(bare::Args),
}

/// Exit status of a program ended by SIGINT, by convention of shells.
const INTERRUPTED: i32 = 130;

#[tokio::main]
async fn main() -> ExitCode {
    stand_ins::tls::install();
    let running = Box::pin(run(Surge::parse().command));
    let outcome = tokio::select! {
        outcome = running => Some(outcome),
        () = signal() => None,
    };
    match outcome {
        Some(outcome) => platform::service::exit_code(outcome),
        // Child processes were killed when the command was dropped. Computing threads are
        // not joined.
        None => std::process::exit(INTERRUPTED),
    }
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Polls(args) => polls::run(args).await,
        Command::Joins(args) => joins::run(args).await,
        Command::Opening(args) => Box::pin(opening::run(args)).await,
        Command::Passes(args) => passes::run(args).await,
        Command::Streams(args) => streams::run(args).await,
        Command::Simulate(args) => {
            tokio::task::spawn_blocking(move || simulate::run(&args)).await?
        }
        Command::SellOut(args) => sell_out::run(args).await,
        Command::Reads(args) => reads::run(args).await,
        Command::Bots(args) => Box::pin(bots::run(args)).await,
        Command::Payments(args) => payments::run(args).await,
        Command::Faults(args) => Box::pin(faults::run(args)).await,
        Command::Bare(args) => bare::run(args).await,
    }
}

/// Waits for SIGTERM or SIGINT; for ever when no handler can be installed.
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [SignalKind::terminate(), SignalKind::interrupt()];
    match kinds.map(signal) {
        [Ok(mut terminate), Ok(mut interrupt)] => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        _ => std::future::pending().await,
    }
}
