//! `surge bots`: the share of robots that pass the proof of work, and its cost for a person.
//!
//! The robots first request every challenge, which costs them nothing, and then solve the cheapest
//! ones on every core of the machine, which they share with Onsale, and join at once. Only joins
//! that were solved and answered count.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use surge::challenge;
use tokio::sync::oneshot;

use super::subject::{self, Subject};
use super::{machine, say};
use platform::sync::MutexExt as _;

/// Challenges requested concurrently.
const ASKED_AT_ONCE: usize = 32;
/// First account id of people; robots have lower ones.
const FIRST_PERSON: i64 = 10_000_000;
/// Bound on the time a person's solve may take.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    subject: subject::Args,
    /// Joins attempted
    #[arg(long, default_value_t = 10_000)]
    attempts: u32,
    /// Addresses of the robots, each in a network of its own
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=200))]
    addresses: u32,
    /// Duration of the attack
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    within: u64,
    /// Lone people whose solves are timed
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=200))]
    people: u32,
    /// Limit on the share of attempts that get through, in per cent
    #[arg(long, default_value_t = 5.0, value_name = "PER CENT")]
    limit: f64,
    /// Print the row of docs/BENCHMARKS.md at the end
    #[arg(long)]
    markdown: bool,
}

/// An account that joins, and its address.
struct Joiner {
    account: i64,
    address: String,
}

/// A challenge and its bearer.
struct Task {
    joiner: Joiner,
    highest: u64,
    challenge: Value,
}

/// Solve times at the lowest price, on one core.
struct Solves {
    median: Duration,
    p95: Duration,
    /// Worst case: every number tried.
    all: Duration,
    highest: u64,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    say(format_args!(
        "{}; the robots and Onsale share them",
        machine::class()
    ));
    let subject = Subject::start(&args.subject).await?;
    subject.ask_for_challenges().await?;
    let door = Arc::new(Door::new(subject));
    // Before the attack, which raises the price.
    let solves = time_people(&door, args.people).await?;
    let joined = attack(&door, &args).await?;
    let door = Arc::into_inner(door).context("a robot is still at the door")?;
    door.subject.tear_down().await?;

    let share = 100.0 * f64::from(joined) / f64::from(args.attempts);
    say(format_args!(
        "robots: {joined} of {} attempts from {} addresses got through within {} s: {share:.2} %",
        args.attempts, args.addresses, args.within
    ));
    let slower = |time: Duration| PATIENCE.as_secs_f64() / time.as_secs_f64();
    say(format_args!(
        "a lone person: numbers to {}, on one core here median {:.2} ms, p95 {:.2} ms, all tried \
         {:.2} ms; a core {:.0} times slower than this stays under 1 s in 95 % of cases, one {:.0} \
         times slower always",
        solves.highest,
        millis(solves.median),
        millis(solves.p95),
        millis(solves.all),
        slower(solves.p95),
        slower(solves.all),
    ));
    if args.markdown {
        say(format_args!(
            "| {} from {} in {} s | {joined} ({share:.2} %) | {:.2} / {:.2} ms | {:.0}x |",
            args.attempts,
            args.addresses,
            args.within,
            millis(solves.median),
            millis(solves.p95),
            slower(solves.all),
        ));
    }
    ensure!(
        share < args.limit,
        "{share:.2} % of the attempts got through, {} % may",
        args.limit
    );
    Ok(())
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// Times solves sequentially, each for a person of another network.
async fn time_people(door: &Arc<Door>, people: u32) -> anyhow::Result<Solves> {
    let mut solved = Histogram::<u64>::new(3)?;
    let mut tried_all = Histogram::<u64>::new(3)?;
    let mut highest = 0;
    for person in 0..people {
        let joiner = Joiner {
            account: FIRST_PERSON + i64::from(person),
            address: format!("198.19.{person}.1"),
        };
        let task = door.ask(joiner).await?;
        highest = task.highest;
        let (one, all) = tokio::task::spawn_blocking(move || time_solve(&task)).await??;
        solved.record(u64::try_from(one.as_nanos())?)?;
        tried_all.record(u64::try_from(all.as_nanos())?)?;
    }
    let nanos = Duration::from_nanos;
    Ok(Solves {
        median: nanos(solved.value_at_quantile(0.5)),
        p95: nanos(solved.value_at_quantile(0.95)),
        all: nanos(tried_all.value_at_quantile(0.5)),
        highest,
    })
}

/// Times finding the number, and trying all of them.
fn time_solve(task: &Task) -> anyhow::Result<(Duration, Duration)> {
    let begun = Instant::now();
    challenge::solve(&task.challenge).context("a challenge has no solution")?;
    let one = begun.elapsed();
    let salt = task.challenge["salt"].as_str().context("no salt")?;
    let nothing = "0".repeat(64);
    let begun = Instant::now();
    let found = challenge::search(salt, &nothing, task.highest);
    ensure!(found.is_none(), "a hash of zeros was found");
    Ok((one, begun.elapsed()))
}

/// Requests every challenge and solves the cheapest until the time is over. Returns the number of
/// joins.
async fn attack(door: &Arc<Door>, args: &Args) -> anyhow::Result<u32> {
    let begun = Instant::now();
    let end = begun + Duration::from_secs(args.within);
    let robots = (0..args.attempts).map(|attempt| Joiner {
        account: 1 + i64::from(attempt),
        address: format!("198.18.{}.1", attempt % args.addresses),
    });
    let tasks = stream::iter(robots)
        .map(|joiner| door.ask(joiner))
        .buffered(ASKED_AT_ONCE)
        .try_collect::<Vec<_>>();
    let mut tasks = tasks.await?;
    say(format_args!(
        "{} challenges were given within {:.1} s",
        tasks.len(),
        begun.elapsed().as_secs_f64()
    ));
    print_prices(&tasks, args.addresses);
    tasks.sort_by_key(|task| std::cmp::Reverse(task.highest));
    let tasks = Arc::new(Mutex::new(tasks));
    let cores = std::thread::available_parallelism()?.get();
    let robots =
        (0..cores).map(|_| tokio::spawn(solve_and_join(Arc::clone(door), Arc::clone(&tasks), end)));
    let mut joined = 0;
    for robot in robots.collect::<Vec<_>>() {
        joined += robot.await??;
    }
    Ok(joined)
}

/// Solves and joins on one core until `end`.
async fn solve_and_join(
    door: Arc<Door>,
    tasks: Arc<Mutex<Vec<Task>>>,
    end: Instant,
) -> anyhow::Result<u32> {
    let mut joined = 0;
    loop {
        let task = tasks.lock_unpoisoned().pop();
        let Some(task) = task else { return Ok(joined) };
        let (solved, solution) = oneshot::channel();
        // A detached thread: the program need not wait for an unfinished solve.
        let challenge = task.challenge;
        std::thread::spawn(move || solved.send(challenge::solve(&challenge)));
        let Ok(solution) = tokio::time::timeout_at(end.into(), solution).await else {
            return Ok(joined);
        };
        let solution = solution?.context("a challenge has no solution")?;
        if door.join(&task.joiner, &solution).await? && Instant::now() < end {
            joined += 1;
        }
    }
}

/// Prints how the price of the first address rises with its attempts.
fn print_prices(tasks: &[Task], addresses: u32) {
    let step = usize::try_from(addresses).expect("a small number");
    let mut before = None;
    for (nth, task) in (1..).zip(tasks.iter().step_by(step)) {
        if before != Some(task.highest) {
            say(format_args!(
                "attempt {nth} of one address: numbers to {}, {} hashes on average",
                task.highest,
                task.highest / 2
            ));
            before = Some(task.highest);
        }
    }
}

/// Client of the queue's endpoints.
struct Door {
    subject: Subject,
    http: reqwest::Client,
    queue: String,
}

impl Door {
    fn new(subject: Subject) -> Self {
        let queue = format!(
            "http://{}/api/events/{}/queue",
            subject.address, subject.event_id
        );
        Self {
            subject,
            http: reqwest::Client::builder()
                .no_proxy()
                .build()
                .expect("a TLS provider is installed"),
            queue,
        }
    }

    /// Requests a challenge for `joiner`.
    async fn ask(&self, joiner: Joiner) -> anyhow::Result<Task> {
        let url = format!("{}/challenge", self.queue);
        let answer = self.request(self.http.get(url), &joiner).send().await?;
        let challenge: Value = answer.error_for_status()?.json().await?;
        Ok(Task {
            highest: challenge["maxnumber"].as_u64().context("no maxnumber")?,
            joiner,
            challenge,
        })
    }

    /// Joins as `joiner`; returns whether it got a number.
    async fn join(&self, joiner: &Joiner, solution: &str) -> anyhow::Result<bool> {
        let request = self.request(self.http.post(&self.queue), joiner);
        let body = json!({ "challenge": solution });
        let answer = request.json(&body).send().await?;
        Ok(answer.status() == StatusCode::CREATED)
    }

    /// Adds credentials, and the address as a trusted proxy forwards it.
    fn request(&self, request: RequestBuilder, joiner: &Joiner) -> RequestBuilder {
        request
            .bearer_auth(self.subject.access_token(joiner.account))
            .header("x-forwarded-for", &joiner.address)
    }
}
