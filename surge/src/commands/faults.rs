//! `surge faults`: sells through two nodes of each service while its servers and services fail one
//! after another, and compares what the buyers were answered with the database.

mod fault;
mod installation;
mod row;
mod sale;
mod signals;
mod standby;

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
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
    #[arg(long, default_value_t = 30, value_name = "SECONDS")]
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
    let log = std::env::temp_dir().join("surge-faults.log");
    File::create(&log)?;
    say(format_args!("the processes log to {}", log.display()));
    let mut installation = None;
    say(row::HEADER);
    let mut broken = 0;
    for fault in faults {
        let at = match &mut installation {
            Some(running) => running,
            none => none.insert(Installation::start(args.onsale.clone(), log.clone()).await?),
        };
        let selling = sale::sell(at, *fault, args.arrivals);
        let mut promises = match Box::pin(selling).await {
            Ok(row) => {
                say(&row);
                row.broken_promises(Duration::from_secs(args.recovery))
            }
            Err(error) => vec![format!("{error:#}")],
        };
        if promises.is_empty() && !fault.is_final() {
            let ready = at.wait_until_ready().await;
            promises.extend(ready.err().map(|error| format!("{error:#}")));
        }
        for promise in &promises {
            say(format_args!("  {}: {promise}", fault.name()));
        }
        if fault.is_final() || !promises.is_empty() {
            // The next fault gets a sound one.
            installation = None;
        }
        broken += promises.len();
    }
    ensure!(broken == 0, "{broken} promises were broken");
    Ok(())
}
