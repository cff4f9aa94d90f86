//! `surge simulate`: whole sales in simulated time, checked against the invariants.

use std::thread;

use anyhow::Context as _;
use surge::simulate::{Report, Scale, sales};

use super::say;

/// Options of the simulation.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Args {
    /// Number of people who join each sale
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(100..=10_000_000))]
    waiters: u32,

    /// Number of sales
    #[arg(long, default_value_t = 100)]
    seeds: u64,

    /// Seed of the first sale; the others follow
    #[arg(long, default_value_t = 1)]
    from: u64,

    /// Initial rate in claims a minute; by default a sale takes about five minutes
    #[arg(long)]
    rate: Option<u32>,
}

/// Runs the simulation; fails at the first violated invariant.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let mut scale = Scale::of(args.waiters);
    scale.rate_per_minute = args.rate.unwrap_or(scale.rate_per_minute).max(1);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let end = args.from.saturating_add(args.seeds);
    let print = |seed, report: &Report| {
        say(format_args!(
            "seed {seed}: {} steps, {} joined, {} called, {} claims, {} missed, {} left",
            report.steps, report.joined, report.called, report.claims, report.missed, report.left,
        ));
    };
    let report = sales(args.from..end, threads, scale, print).with_context(|| {
        format!(
            "run again with --waiters {} --seeds 1 --from SEED",
            args.waiters
        )
    })?;
    say(format_args!(
        "order, places, rate and cap held in {} sales, {} steps, {} claims",
        args.seeds, report.steps, report.claims,
    ));
    say(format_args!(
        "of {} predicted waits {:.1} % were within the p50 and {:.1} % within the p90",
        report.predicted,
        report.p50_share() * 100.0,
        report.p90_share() * 100.0,
    ));
    Ok(())
}
