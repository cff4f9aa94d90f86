//! `surge joins`: the cost of a join beside a handler that does nothing, and the memory of a long
//! line.

use std::sync::Arc;

use anyhow::Context as _;
use platform::redis::{Redis, cmd};

use super::bare::{Bare, Canned};
use super::load::{self, End, Load, Pace, Requests};
use super::rounds::{Rounds, Side};
use super::subject::{self, Subject};
use super::{machine, say};

const MEGABYTE: f64 = 1e6;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    subject: subject::Args,
    /// Joins in all
    #[arg(long, default_value_t = 1_000_000)]
    total: i64,
    /// Connections that join: a flash sale's crowd comes within a second
    #[arg(long, default_value_t = 4_096)]
    connections: u32,
    /// Rounds of each side
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Joins of a round
    #[arg(long, default_value_t = 50_000)]
    per_round: i64,
    /// Print the row of docs/BENCHMARKS.md at the end
    #[arg(long)]
    markdown: bool,
}

/// Memory use of the process and of Redis, in bytes.
#[derive(Clone, Copy)]
struct Memory {
    process: u64,
    redis: u64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    say(format_args!(
        "{}; the load, Onsale, the bare handlers and the servers share them",
        machine::class()
    ));
    let subject = Subject::start(&args.subject).await?;
    let before = Memory::of(&subject).await?;
    let (onsale, bare) = compare(&args, &subject).await?;
    let compared = i64::from(args.rounds + 1) * args.per_round;
    fill(&args, &subject, compared).await?;
    let after = Memory::of(&subject).await?;
    subject.tear_down().await?;

    let ratio = 100.0 * onsale.per_second() / bare.per_second();
    say(format_args!(
        "joins: {:.0}/s, bare POST {:.0}/s: {ratio:.0} %; CPU {:.1} us a join, bare {:.1}",
        onsale.per_second(),
        bare.per_second(),
        onsale.cpu_us(),
        bare.cpu_us(),
    ));
    let memory = before.zip(after).map(|(before, after)| {
        say(format_args!(
            "{} joined: process {:.0} MB (before {:.0}), Redis {:.0} MB (before {:.0}), together \
             {:.0} MB",
            args.total.max(compared),
            megabytes(after.process),
            megabytes(before.process),
            megabytes(after.redis),
            megabytes(before.redis),
            megabytes(after.process + after.redis),
        ));
        format!(
            "{:.0} + {:.0}",
            megabytes(after.process),
            megabytes(after.redis)
        )
    });
    if args.markdown {
        say(format_args!(
            "| {:.0} | {:.0} | {ratio:.0} % | {:.1} / {:.1} | {} MB at {} |",
            onsale.per_second(),
            bare.per_second(),
            onsale.cpu_us(),
            bare.cpu_us(),
            memory.as_deref().unwrap_or("not measured"),
            args.total.max(compared),
        ));
    }
    Ok(())
}

/// Runs alternating rounds; every join is of a new account.
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
        "{} joins a round, {} connections, closed loop:",
        args.per_round, args.connections
    ));
    let mut sides = (Rounds::default(), Rounds::default());
    for round in 0..=args.rounds {
        let requests = joins(subject, i64::from(round) * args.per_round, args.per_round);
        onsale.round(&load, &requests, &mut sides.0).await?;
        bare.round(&load, &requests, &mut sides.1).await?;
        if round == 0 {
            // The first round warms both up.
            sides = (Rounds::default(), Rounds::default());
        }
    }
    Ok(sides)
}

/// Joins the rest of `args.total`, after the first `joined`.
async fn fill(args: &Args, subject: &Subject, mut joined: i64) -> anyhow::Result<()> {
    let load = load(args, subject);
    while joined < args.total {
        let count = args.per_round.min(args.total - joined);
        load::run(&load, &joins(subject, joined, count))
            .await?
            .check()?;
        joined += count;
    }
    Ok(())
}

fn load(args: &Args, subject: &Subject) -> Load {
    Load {
        target: subject.address,
        connections: args.connections,
        pace: Pace::Closed,
        end: End::EachOnce,
    }
}

/// Returns the join requests of `count` accounts after the first `after`.
fn joins(subject: &Subject, after: i64, count: i64) -> Requests {
    Arc::new(
        (after + 1..=after + count)
            .map(|account| subject.join(account))
            .collect(),
    )
}

impl Memory {
    async fn of(subject: &Subject) -> anyhow::Result<Option<Self>> {
        let Some((pid, redis)) = subject.pid().zip(subject.redis()) else {
            return Ok(None);
        };
        Ok(Some(Self {
            process: machine::resident_bytes(pid)?,
            redis: used_memory(&redis).await?,
        }))
    }
}

async fn used_memory(redis: &Redis) -> anyhow::Result<u64> {
    let info: String = cmd("INFO")
        .arg("memory")
        .query_async(&mut redis.clone())
        .await?;
    info.lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .and_then(|bytes| bytes.trim().parse().ok())
        .context("Redis tells no used_memory")
}

fn megabytes(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "shown in whole megabytes")]
    let bytes = bytes as f64;
    bytes / MEGABYTE
}
