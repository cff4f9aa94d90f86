//! `surge polls`: the cost of a poll beside a handler that does nothing, and Redis commands
//! meanwhile, with few waiters and with many.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use platform::redis::{Redis, cmd};

use super::bare::{Bare, Canned};
use super::load::{End, Load, Pace, Requests};
use super::rounds::{Rounds, Side};
use super::subject::{self, Subject};
use super::wire::Connection;
use super::{machine, say};

/// First polled place: lower ones may be called during the run.
const FIRST_PLACE: i64 = 1_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    subject: subject::Args,
    /// Number of waiters, one measurement each
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 1_000_000])]
    waiters: Vec<i64>,
    /// Maximum number of tokens, of places spread over all waiters
    #[arg(long, default_value_t = 200_000)]
    tokens: i64,
    /// Connections that poll
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Rounds of each side
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of a round
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Polls a second of the open-loop round that measures the latency
    #[arg(long, default_value_t = 5_000.0)]
    rate: f64,
    /// Print the rows of docs/BENCHMARKS.md at the end
    #[arg(long)]
    markdown: bool,
}

/// Figures for one number of waiters.
struct Figures {
    waiters: i64,
    onsale: Rounds,
    bare: Rounds,
    commands_per_second: Option<f64>,
    /// p50 and p99 in microseconds at the set rate.
    latency: (u64, u64),
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    say(format_args!(
        "{}; the load, Onsale, the bare handlers and the servers share them",
        machine::class()
    ));
    let subject = Subject::start(&args.subject).await?;
    let mut figures = Vec::new();
    for &waiters in &args.waiters {
        figures.push(measure(&args, &subject, waiters).await?);
    }
    subject.tear_down().await?;
    for each in &figures {
        each.print(&args);
    }
    if args.markdown {
        for each in &figures {
            each.print_row(&args);
        }
    }
    Ok(())
}

async fn measure(args: &Args, subject: &Subject, waiters: i64) -> anyhow::Result<Figures> {
    subject.set_joined(waiters).await?;
    let requests = polls(subject, waiters, args.tokens)?;
    let canned = {
        let mut connection = Connection::open(subject.address).await?;
        Canned::of(&connection.exchange(&requests[0]).await?)?
    };
    let bare_process = Bare::start(&canned).await?;
    let (onsale, bare) = (
        Side {
            name: "onsale",
            address: subject.address,
            pid: subject.pid(),
        },
        Side {
            name: "bare",
            address: bare_process.address,
            pid: Some(bare_process.pid),
        },
    );
    let load = Load {
        target: subject.address,
        connections: args.connections,
        pace: Pace::Closed,
        end: End::After(Duration::from_secs(args.seconds)),
    };
    say(format_args!(
        "{waiters} waiters, {} tokens, {} connections, closed loop:",
        requests.len(),
        args.connections
    ));
    let redis = subject.redis();
    let mut figures = Figures {
        waiters,
        onsale: Rounds::default(),
        bare: Rounds::default(),
        commands_per_second: None,
        latency: (0, 0),
    };
    let mut warm = Rounds::default();
    onsale.round(&load, &requests, &mut warm).await?;
    bare.round(&load, &requests, &mut warm).await?;
    let mut commands = Vec::new();
    for _ in 0..args.rounds {
        let before = Counted::read(redis.as_ref()).await?;
        onsale.round(&load, &requests, &mut figures.onsale).await?;
        let after = Counted::read(redis.as_ref()).await?;
        commands.extend(Counted::per_second(before, after));
        bare.round(&load, &requests, &mut figures.bare).await?;
    }
    if !commands.is_empty() {
        figures.commands_per_second = Some(super::rounds::median(&commands));
    }
    say(format_args!("open loop at {} polls/s:", args.rate));
    let open = Load {
        pace: Pace::Open {
            per_second: args.rate,
        },
        ..load
    };
    let latency = onsale.round(&open, &requests, &mut warm).await?.latency;
    figures.latency = (
        latency.value_at_quantile(0.5),
        latency.value_at_quantile(0.99),
    );
    Ok(figures)
}

/// Returns polls of places spread over all waiters, shuffled.
fn polls(subject: &Subject, waiters: i64, most: i64) -> anyhow::Result<Requests> {
    let first = FIRST_PLACE.min(waiters / 2);
    let count = (waiters - first).min(most);
    let mut requests: Vec<_> = (0..count)
        .map(|nth| subject.poll(first + 1 + nth * (waiters - first) / count))
        .collect();
    anyhow::ensure!(!requests.is_empty(), "nobody waits");
    rand::seq::SliceRandom::shuffle(requests.as_mut_slice(), &mut rand::rng());
    Ok(Arc::new(requests))
}

/// Redis's count of commands at one moment.
#[derive(Clone, Copy)]
struct Counted {
    commands: u64,
    at: Instant,
}

impl Counted {
    async fn read(redis: Option<&Redis>) -> anyhow::Result<Option<Self>> {
        let Some(redis) = redis else { return Ok(None) };
        let info: String = cmd("INFO")
            .arg("commandstats")
            .query_async(&mut redis.clone())
            .await?;
        Ok(Some(Self {
            commands: calls(&info).context("Redis counts no commands")?,
            at: Instant::now(),
        }))
    }

    fn per_second(before: Option<Self>, after: Option<Self>) -> Option<f64> {
        let (before, after) = (before?, after?);
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let commands = (after.commands - before.commands) as f64;
        Some(commands / (after.at - before.at).as_secs_f64())
    }
}

/// Sums all calls, those of scripts included, except our own `INFO`.
fn calls(info: &str) -> Option<u64> {
    let lines = info
        .lines()
        .filter_map(|line| line.strip_prefix("cmdstat_"));
    lines
        .filter(|line| !line.starts_with("info:"))
        .map(|line| {
            let (_, calls) = line.split_once("calls=")?;
            calls.split(',').next()?.parse::<u64>().ok()
        })
        .sum()
}

impl Figures {
    fn ratio(&self) -> f64 {
        100.0 * self.onsale.per_second() / self.bare.per_second()
    }

    fn commands(&self) -> String {
        self.commands_per_second
            .map_or_else(|| "not counted".to_owned(), |rate| format!("{rate:.1}"))
    }

    fn print(&self, args: &Args) {
        say(format_args!(
            "{} waiters: {:.0} polls/s, bare {:.0}/s: {:.0} %; CPU {:.1} us a poll, bare {:.1}; \
             Redis commands/s {}; at {} polls/s p50 {} us, p99 {} us",
            self.waiters,
            self.onsale.per_second(),
            self.bare.per_second(),
            self.ratio(),
            self.onsale.cpu_us(),
            self.bare.cpu_us(),
            self.commands(),
            args.rate,
            self.latency.0,
            self.latency.1,
        ));
    }

    fn print_row(&self, args: &Args) {
        say(format_args!(
            "| {} | {:.0} | {:.0} | {:.0} % | {:.1} / {:.1} | {} | {:.1} / {:.1} ms at {}/s |",
            self.waiters,
            self.onsale.per_second(),
            self.bare.per_second(),
            self.ratio(),
            self.onsale.cpu_us(),
            self.bare.cpu_us(),
            self.commands(),
            milliseconds(self.latency.0),
            milliseconds(self.latency.1),
            args.rate,
        ));
    }
}

fn milliseconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_of_redis_are_summed_without_our_own_question() {
        let info = "# Commandstats\r\ncmdstat_get:calls=40,usec=9\r\ncmdstat_info:calls=7,usec=1\r\n\
                    cmdstat_evalsha:calls=2,usec=3\r\n";
        assert_eq!(calls(info), Some(42));
    }
}
