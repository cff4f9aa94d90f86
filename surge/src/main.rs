//! `surge`: the load tool. Each command measures one promise of speed, and in the same run the
//! limit it is compared with.

mod commands;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use commands::{bare, bots, joins, passes, payments, polls, reads, sell_out, simulate, streams};

/// The one that Onsale has, so that it and the bare handlers differ in what they do alone.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Onsale, and in the same run what this machine could do at best.
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
    /// Join: requests a second, and the memory that the joined take
    Joins(joins::Args),
    /// Claim passes: claims a second, beside what PostgreSQL does at best
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
    /// Serve handlers that do nothing, which is what the others are compared with
    #[command(hide = true)]
    Bare(bare::Args),
}

#[tokio::main]
async fn main() -> ExitCode {
    surge::tls::install();
    let outcome = match Surge::parse().command {
        Command::Polls(args) => polls::run(args).await,
        Command::Joins(args) => joins::run(args).await,
        Command::Passes(args) => passes::run(args).await,
        Command::Streams(args) => streams::run(args).await,
        Command::Simulate(args) => simulate::run(&args),
        Command::SellOut(args) => sell_out::run(args).await,
        Command::Reads(args) => reads::run(args).await,
        Command::Bots(args) => bots::run(args).await,
        Command::Payments(args) => payments::run(args).await,
        Command::Bare(args) => bare::run(args).await,
    };
    platform::service::exit_code(outcome)
}
