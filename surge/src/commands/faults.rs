//! `surge faults`: sells through two nodes of each service while its servers and services fail one
//! after another, and compares what the buyers were told with the database.

mod fault;
mod installation;
mod row;
mod sale;
mod standby;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::ValueEnum as _;

use super::{machine, say};
use fault::Fault;
use installation::Installation;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Faults to inject, in this order; the default is all
    #[arg(value_enum, value_name = "FAULT")]
    faults: Vec<Fault>,
    /// Buyers who arrive a second
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10))]
    arrivals: u32,
    /// Longest time from the repair to the last failed request
    #[arg(long, default_value_t = 15, value_name = "SECONDS")]
    recovery: u64,
    /// The program to start; the default is the one beside this
    #[arg(long, value_name = "PATH")]
    onsale: Option<PathBuf>,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    say(format_args!(
        "{}; the buyers, the stand-ins, eleven processes and the servers share them",
        machine::class()
    ));
    let faults = match args.faults.as_slice() {
        [] => Fault::value_variants(),
        chosen => chosen,
    };
    let mut installation = None;
    say(row::HEADER);
    let mut broken = 0;
    for fault in faults {
        let at = match &mut installation {
            Some(running) => running,
            none => none.insert(Installation::start(args.onsale.clone()).await?),
        };
        let selling = sale::sell(at, *fault, args.arrivals);
        let row = Box::pin(selling).await.with_context(|| fault.name())?;
        say(&row);
        let promises = row.broken_promises(Duration::from_secs(args.recovery));
        for promise in &promises {
            say(format_args!("  {}: {promise}", fault.name()));
        }
        broken += promises.len();
        if fault.is_final() {
            installation = None;
        } else {
            at.wait_until_ready().await?;
        }
    }
    ensure!(broken == 0, "{broken} promises were broken");
    Ok(())
}
