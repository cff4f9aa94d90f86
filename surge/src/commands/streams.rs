//! `surge streams`: fan-out latency of a new snapshot to all listeners, and memory per stream.

mod listener;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, Utc};
use tokio::sync::mpsc;

use super::rounds::median;
use super::subject::{self, Subject};
use super::{machine, say};
use listener::{Arrival, Listener};

/// Streams opened concurrently.
const OPEN_AT_ONCE: usize = 100;
/// File descriptors reserved for other uses, by the tool and by Onsale.
const SPARE_DESCRIPTORS: u64 = 100;
/// Time limit for a snapshot to reach every stream.
const PATIENCE: Duration = Duration::from_secs(20);
/// Pause between snapshots, so that they do not overlap.
const PAUSE: Duration = Duration::from_secs(2);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    subject: subject::Args,
    /// Number of listeners
    #[arg(long, default_value_t = 20_000)]
    streams: u32,
    /// Number of snapshots sent
    #[arg(long, default_value_t = 10)]
    snapshots: u32,
    /// Print the row of docs/BENCHMARKS.md at the end
    #[arg(long)]
    markdown: bool,
}

/// Fan-out of one snapshot, in seconds after it was taken.
struct Spread {
    first: f64,
    last: f64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    let streams = allowed(args.streams)?;
    say(format_args!(
        "{}; the listeners, Onsale and the servers share them",
        machine::class()
    ));
    let subject = Subject::start(&args.subject).await?;
    let pid = subject.pid().context("--url has no process to look at")?;
    let before = machine::resident_bytes(pid)?;
    let (sender, mut arrivals) = mpsc::unbounded_channel();
    let listeners = open(&subject, streams, &sender).await?;
    // The current snapshot is sent first.
    wait_for_all(&mut arrivals, streams).await?;
    let idle = machine::resident_bytes(pid)?;
    let mut spreads = Vec::new();
    for number in 0..args.snapshots {
        tokio::time::sleep(PAUSE).await;
        subject.set_message(&format!("snapshot {number}")).await?;
        let spread = wait_for_all(&mut arrivals, streams).await?;
        say(format_args!(
            "  snapshot {number}: first after {:.0} ms, last of {streams} after {:.0} ms",
            spread.first * 1e3,
            spread.last * 1e3
        ));
        spreads.push(spread);
    }
    let after = machine::resident_bytes(pid)?;
    drop(listeners);
    subject.tear_down().await?;
    print(
        &args,
        streams,
        &spreads,
        per_stream(before, idle, streams),
        per_stream(before, after, streams),
    );
    Ok(())
}

/// Caps the number of streams at the file descriptors available.
fn allowed(streams: u32) -> anyhow::Result<u32> {
    let most = platform::service::raise_open_files()?.saturating_sub(SPARE_DESCRIPTORS);
    let most = u32::try_from(most).unwrap_or(u32::MAX);
    if most < streams {
        say(format_args!(
            "a process may open {} files here, so {most} streams are measured, not {streams}",
            u64::from(most) + SPARE_DESCRIPTORS
        ));
    }
    Ok(streams.min(most))
}

async fn open(
    subject: &Subject,
    streams: u32,
    arrivals: &mpsc::UnboundedSender<Arrival>,
) -> anyhow::Result<tokio::task::JoinSet<()>> {
    let mut listening = tokio::task::JoinSet::new();
    let numbers: Vec<u32> = (0..streams).collect();
    for numbers in numbers.chunks(OPEN_AT_ONCE) {
        let opening = numbers
            .iter()
            .map(|&number| Listener::open(subject.address, subject.event_id, number));
        for listener in futures_util::future::try_join_all(opening).await? {
            listening.spawn(listener.listen(arrivals.clone()));
        }
    }
    Ok(listening)
}

/// Waits until one snapshot has reached all streams.
async fn wait_for_all(
    arrivals: &mut mpsc::UnboundedReceiver<Arrival>,
    streams: u32,
) -> anyhow::Result<Spread> {
    let mut seen: BTreeMap<i64, Seen> = BTreeMap::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let arrival = tokio::time::timeout_at(deadline, arrivals.recv()).await;
        let arrival = arrival
            .with_context(|| format!("no snapshot has reached all {streams} streams"))?
            .context("every stream has ended")?;
        let seen = seen.entry(arrival.seq).or_default();
        seen.count += 1;
        seen.taken = seen.taken.or(arrival.taken);
        seen.first = Some(seen.first.map_or(arrival.at, |first| first.min(arrival.at)));
        seen.last = Some(seen.last.map_or(arrival.at, |last| last.max(arrival.at)));
        if seen.count == streams {
            return seen.spread();
        }
        ensure!(seen.count < streams, "a stream got a snapshot twice");
    }
}

/// Arrivals of one snapshot so far.
#[derive(Default)]
struct Seen {
    count: u32,
    taken: Option<DateTime<Utc>>,
    first: Option<DateTime<Utc>>,
    last: Option<DateTime<Utc>>,
}

impl Seen {
    fn spread(&self) -> anyhow::Result<Spread> {
        let taken = self
            .taken
            .context("a snapshot does not say when it was taken")?;
        let after = |at: Option<DateTime<Utc>>| at.map_or(0.0, |at| (at - taken).as_seconds_f64());
        Ok(Spread {
            first: after(self.first),
            last: after(self.last),
        })
    }
}

fn per_stream(before: u64, after: u64, streams: u32) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let bytes = after.saturating_sub(before) as f64;
    bytes / f64::from(streams) / 1e3
}

fn print(args: &Args, streams: u32, spreads: &[Spread], idle_kb: f64, used_kb: f64) {
    let lasts: Vec<f64> = spreads.iter().map(|spread| spread.last).collect();
    let worst = lasts.iter().copied().fold(0.0, f64::max);
    say(format_args!(
        "{streams} streams: a snapshot reaches the last after {:.0} ms (median), {:.0} ms (worst); \
         {idle_kb:.1} kB of the process each when opened, {used_kb:.1} kB after the snapshots",
        median(&lasts) * 1e3,
        worst * 1e3,
    ));
    if args.markdown {
        say(format_args!(
            "| {streams} | {:.0} ms | {:.0} ms | {idle_kb:.1} kB | {used_kb:.1} kB |",
            median(&lasts) * 1e3,
            worst * 1e3,
        ));
    }
}
