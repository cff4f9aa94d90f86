//! `surge reads`: reads of availability and the seat map during a sale, beside a handler that
//! returns the same bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::ensure;
use chrono::TimeDelta;
use domain::EventId;
use domain::clock::{Clock as _, SystemClock};
use serde_json::json;
use tokio::task::JoinHandle;

use super::bare::{Bare, Canned};
use super::load::{self, End, Load, Pace, Requests};
use super::rounds::{Rounds, Side};
use super::subject::{self, Subject};
use super::wire::Connection;
use super::{machine, say};

/// Tickets per booking; one, so that the stock lasts.
const TICKETS: u32 = 1;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    subject: subject::Args,
    /// Connections that read
    #[arg(long, default_value_t = 64)]
    connections: u32,
    /// Rounds of each side
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of a round
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Bookings a second meanwhile
    #[arg(long, default_value_t = 50.0)]
    bookings: f64,
    /// Print the rows of docs/BENCHMARKS.md at the end
    #[arg(long)]
    markdown: bool,
}

/// Figures of one resource.
struct Figures {
    what: &'static str,
    bytes: usize,
    onsale: Rounds,
    bare: Rounds,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    say(format_args!(
        "{}; the readers, Onsale, the bare handlers and the servers share them",
        machine::class()
    ));
    let subject = Subject::start_own(&args.subject, Vec::new()).await?;
    let event_id = house(&subject).await?;
    let sale = Sale::run(&subject, event_id, args.bookings);
    let mut figures = Vec::new();
    for what in ["availability", "seats"] {
        figures.push(measure(&args, &subject, event_id, what).await?);
    }
    let booked = sale.stop().await?;
    subject.tear_down().await?;
    say(format_args!("{booked} bookings were made meanwhile"));
    for each in &figures {
        each.print(args.markdown);
    }
    Ok(())
}

/// Creates an event with 50,000 numbered seats.
async fn house(subject: &Subject) -> anyhow::Result<EventId> {
    let now = SystemClock.now();
    let price = json!({ "amount_minor": 0, "currency": "eur" });
    let sections: Vec<_> = (1..=5)
        .map(|nth| {
            json!({
                "name": format!("Block {nth}"), "numbered": true, "rows": 100, "seats_per_row": 100,
                "tier": { "price": price },
            })
        })
        .collect();
    let event = json!({
        "name": "Surge", "date": now + TimeDelta::days(30), "sections": sections,
        "sale": { "opens_at": now, "queue": false },
    });
    subject.new_event(&event).await
}

async fn measure(
    args: &Args,
    subject: &Subject,
    event_id: EventId,
    what: &'static str,
) -> anyhow::Result<Figures> {
    let request = format!(
        "GET /api/events/{event_id}/{what} HTTP/1.1\r\nhost: {}\r\naccept-encoding: gzip\r\n\r\n",
        subject.address
    );
    let requests: Requests = Arc::new(vec![request.into_bytes()]);
    let mut connection = Connection::open(subject.address).await?;
    let answer = connection.exchange(&requests[0]).await?;
    ensure!(answer.status == 200, "{what} answers {}", answer.status);
    let bytes = answer.body.len();
    let bare_process = Bare::start(&Canned::of(&answer)?).await?;
    let onsale = Side {
        name: "onsale",
        address: subject.address,
        pid: subject.pid(),
    };
    let bare = Side {
        name: "bare",
        address: bare_process.address,
        pid: Some(bare_process.pid),
    };
    let load = Load {
        target: subject.address,
        connections: args.connections,
        pace: Pace::Closed,
        end: End::After(Duration::from_secs(args.seconds)),
    };
    say(format_args!(
        "{what}, {bytes} bytes, {} connections, closed loop:",
        args.connections
    ));
    let mut figures = Figures {
        what,
        bytes,
        onsale: Rounds::default(),
        bare: Rounds::default(),
    };
    for round in 0..=args.rounds {
        onsale.round(&load, &requests, &mut figures.onsale).await?;
        bare.round(&load, &requests, &mut figures.bare).await?;
        if round == 0 {
            // The first round warms both up.
            (figures.onsale, figures.bare) = (Rounds::default(), Rounds::default());
        }
    }
    Ok(figures)
}

/// Bookings in the background, in open loop.
struct Sale {
    stop: Arc<AtomicBool>,
    selling: JoinHandle<anyhow::Result<u64>>,
}

impl Sale {
    fn run(subject: &Subject, event_id: EventId, per_second: f64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let each_second: Vec<Requests> = (0..900)
            .map(|second| Arc::new(bookings(subject, event_id, per_second, second)))
            .collect();
        let load = Load {
            target: subject.address,
            connections: 8,
            pace: Pace::Open { per_second },
            end: End::EachOnce,
        };
        let stopped = Arc::clone(&stop);
        let selling = tokio::spawn(async move {
            let mut booked = 0;
            for requests in each_second {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                booked += load::run(&load, &requests).await?.check()?.succeeded;
            }
            Ok(booked)
        });
        Self { stop, selling }
    }

    /// Stops, and returns the number of bookings.
    async fn stop(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.selling.await?
    }
}

/// Returns the booking requests of one second, each of a new account.
fn bookings(subject: &Subject, event_id: EventId, per_second: f64, second: i64) -> Vec<Vec<u8>> {
    #[expect(clippy::cast_possible_truncation, reason = "a few hundred")]
    let count = per_second.ceil() as i64;
    (1..=count)
        .map(|nth| subject.book(event_id, second * count + nth, TICKETS))
        .collect()
}

impl Figures {
    fn print(&self, markdown: bool) {
        let ratio = 100.0 * self.onsale.per_second() / self.bare.per_second();
        say(format_args!(
            "{}: {:.0} reads/s, bare {:.0}/s: {ratio:.0} %; CPU {:.1} us a read, bare {:.1}",
            self.what,
            self.onsale.per_second(),
            self.bare.per_second(),
            self.onsale.cpu_us(),
            self.bare.cpu_us(),
        ));
        if markdown {
            say(format_args!(
                "| {} | {} | {:.0} | {:.0} | {ratio:.0} % | {:.1} / {:.1} |",
                self.what,
                self.bytes,
                self.onsale.per_second(),
                self.bare.per_second(),
                self.onsale.cpu_us(),
                self.bare.cpu_us(),
            ));
        }
    }
}
