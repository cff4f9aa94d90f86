//! `surge sell-out`: sells a house through admission, RabbitMQ, PostgreSQL and the stand-in for
//! Stripe until every seat is confirmed; baseline is the booking worker's statement on PostgreSQL
//! alone.

mod asking;
mod batch;
mod crowd;
mod paying;

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use domain::EventId;
use domain::clock::{Clock as _, SystemClock};
use domain::payment::STRIPE_EVENTS;
use serde_json::json;
use stand_ins::stripe::{self, ApiFault};

use super::load::Pace;
use super::rounds::median;
use super::subject::{self, Subject};
use super::{machine, say};
use asking::Asked;
use crowd::Crowd;
use paying::Payers;

/// Mean tickets per booking: half the buyers request two, half three.
const TICKETS: f64 = 2.5;
/// Seats of a section of 100 rows.
const SECTION_SEATS: u32 = 10_000;
const SEATS_PER_ROW: u32 = 100;
/// Time limit from the last hold to the last ticket.
const PATIENCE: Duration = Duration::from_secs(600);
/// Rate limit of the payment worker, too high to matter: the stand-in has no limits here.
const UNPACED: u32 = 100_000;

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    subject: subject::Args,
    /// Seats of the house
    #[arg(long, default_value_t = 50_000)]
    seats: u32,
    /// Connections that request seats
    #[arg(long, default_value_t = 1_000)]
    connections: u32,
    /// Connections of buyers who pay
    #[arg(long, default_value_t = 64)]
    payers: u32,
    /// Seconds from the hold to the card number, included in the end-to-end figure
    #[arg(long, default_value_t = 10.0)]
    think_seconds: f64,
    /// Seconds of the round at half the rate; 0 leaves it out
    #[arg(long, default_value_t = 10)]
    half_seconds: u32,
    /// Compare holds a second with a Stripe that takes this long for each call
    #[arg(long, value_name = "MILLISECONDS")]
    slow_stripe: Option<u64>,
    /// Rounds of each side of that comparison
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seats held in a round of that comparison
    #[arg(long, default_value_t = 10_000)]
    round_seats: u32,
    /// Bookings per statement of the baseline on PostgreSQL alone; 0 leaves it out
    #[arg(long, default_value_t = 50)]
    batch: u32,
    /// Print the row of docs/BENCHMARKS.md at the end
    #[arg(long)]
    markdown: bool,
}

/// Result of the whole sale.
struct Sold {
    asked: Asked,
    /// From the first request to the last ticket.
    elapsed: Duration,
    /// Tickets a second, without the first and the last tenth.
    flowing: f64,
    /// Onsale's processor time from the first request to the last ticket.
    cpu: Duration,
}

pub(crate) async fn run(args: Args) -> anyhow::Result<()> {
    say(format_args!(
        "{}; the buyers, the stand-ins, Onsale and the servers share them",
        machine::class()
    ));
    let stripe = stripe::StandIn::start(stripe::Config {
        webhook_events: STRIPE_EVENTS.map(str::to_owned).into(),
        ..stripe::Config::default()
    })
    .await?;
    let subject = Subject::start_own(&args.subject, settings(&stripe)).await?;
    stripe.set_webhook_url(format!("http://{}/api/webhooks/stripe", subject.address));
    let crowd = Crowd::gather(&subject, &stripe).await?;

    let sold = sell_out(&args, &crowd).await?;
    sold.print(args.seats);
    let half = half_load(&args, &crowd, sold.asked.seats_per_second()).await?;
    let slow = match args.slow_stripe {
        Some(milliseconds) => Some(compare(&args, &crowd, milliseconds).await?),
        None => None,
    };
    // Unpaid holds must end before the audit.
    crowd.end_holds().await?;
    let is_clean = subject.audit(PATIENCE).await?;
    let alone = alone(&args, &crowd).await?;
    crowd.leave().await;
    subject.tear_down().await?;

    print_all(&args, &sold, half.as_ref(), slow, alone);
    ensure!(is_clean, "the audit found broken promises");
    Ok(())
}

/// Settings that point payments at the stand-in of this process, without rate limits.
fn settings(stripe: &stripe::StandIn) -> Vec<(&'static str, String)> {
    vec![
        ("STRIPE_SECRET_KEY", stripe.secret_key().to_owned()),
        ("STRIPE_WEBHOOK_SECRET", stripe.webhook_secret().to_owned()),
        (
            "STRIPE_PUBLISHABLE_KEY",
            stripe.publishable_key().to_owned(),
        ),
        ("ONSALE_STRIPE_URL", stripe.url()),
        ("ONSALE_STRIPE_PUBLIC_URL", stripe.url()),
        ("ONSALE_STRIPE_RATE", UNPACED.to_string()),
        ("ONSALE_STRIPE_ENDPOINT_RATE", UNPACED.to_string()),
        ("ONSALE_STRIPE_CONCURRENCY", "64".to_owned()),
        ("ONSALE_DB_CONNECTIONS", "30".to_owned()),
        ("ONSALE_LOG", "warn".to_owned()),
    ]
}

/// Creates an event of `seats` numbered seats at 45 euro, sold without a queue.
async fn new_house(subject: &Subject, seats: u32) -> anyhow::Result<EventId> {
    let now = SystemClock.now();
    let mut sections = Vec::new();
    let mut left = seats;
    while left > 0 {
        let rows = (left.min(SECTION_SEATS) / SEATS_PER_ROW).max(1);
        let per_row = left.min(SEATS_PER_ROW);
        left -= rows * per_row;
        sections.push(json!({
            "name": format!("Block {}", sections.len() + 1), "numbered": true,
            "rows": rows, "seats_per_row": per_row,
            "tier": { "name": "Standard", "price": { "amount_minor": 4_500, "currency": "eur" } },
        }));
    }
    let event = json!({
        "name": "Surge", "date": now + TimeDelta::days(30), "sections": sections,
        "sale": { "opens_at": now, "queue": false, "hold_seconds": 3_600 },
    });
    subject.new_event(&event).await
}

/// Sells a whole house.
async fn sell_out(args: &Args, crowd: &Crowd<'_>) -> anyhow::Result<Sold> {
    let event_id = new_house(crowd.subject, args.seats).await?;
    let think = Duration::from_secs_f64(args.think_seconds);
    let payers = Payers::hire(crowd, args.payers, think).await?;
    let cpu_before = crowd.cpu_time()?;
    let begun = Instant::now();
    let mut asked = asking::ask(
        crowd,
        event_id,
        args.seats,
        args.connections,
        Pace::Closed,
        Some(&payers),
    )
    .await?;
    asked.seats += fill_up(crowd, event_id, &payers).await?;
    say(format_args!(
        "all held: {:.0} seats/s; waiting for the tickets",
        asked.seats_per_second()
    ));
    payers.leave().await?;
    crowd
        .wait_until_sold(event_id, args.seats, PATIENCE)
        .await?;
    let elapsed = begun.elapsed();
    Ok(Sold {
        asked,
        elapsed,
        flowing: crowd.tickets_per_second(event_id).await?,
        cpu: crowd.cpu_time()?.saturating_sub(cpu_before),
    })
}

/// Requests the remaining seats singly: those that no pair or three could have.
async fn fill_up(crowd: &Crowd<'_>, event_id: EventId, payers: &Payers) -> anyhow::Result<u64> {
    let mut filled = 0;
    loop {
        let free = crowd.stock(event_id).await?.available;
        if free == 0 {
            return Ok(filled);
        }
        let singles = u32::try_from(free).context("no house has so many seats")?;
        let asked = asking::ask_singly(crowd, event_id, singles, payers).await?;
        ensure!(asked > 0, "{free} seats are free, and nobody gets one");
        filled += asked;
    }
}

/// Measures the latency of holds at half of `seats_per_second`.
async fn half_load(
    args: &Args,
    crowd: &Crowd<'_>,
    seats_per_second: f64,
) -> anyhow::Result<Option<Asked>> {
    if args.half_seconds == 0 {
        return Ok(None);
    }
    let per_second = seats_per_second / 2.0 / TICKETS;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a few thousand"
    )]
    let seats = (per_second * TICKETS * f64::from(args.half_seconds)) as u32;
    let seats = (seats / SEATS_PER_ROW).max(1) * SEATS_PER_ROW;
    crowd.wait_for_quiet(PATIENCE).await?;
    let event_id = new_house(crowd.subject, seats + SECTION_SEATS).await?;
    let pace = Pace::Open { per_second };
    asking::ask(crowd, event_id, seats, args.connections, pace, None)
        .await
        .map(Some)
}

/// Measures holds a second with a quick and a slow Stripe, in alternating rounds.
async fn compare(args: &Args, crowd: &Crowd<'_>, slow_ms: u64) -> anyhow::Result<(f64, f64)> {
    let (mut quick, mut slow) = (Vec::new(), Vec::new());
    for round in 0..=args.rounds {
        for (delay, rates) in [(None, &mut quick), (Some(slow_ms), &mut slow)] {
            crowd.wait_for_quiet(PATIENCE).await?;
            let event_id = new_house(crowd.subject, args.round_seats + SECTION_SEATS).await?;
            if let Some(milliseconds) = delay {
                let fault = ApiFault::Delay { milliseconds };
                crowd.stripe.faults().sometimes(1.0, None, fault);
            }
            let seats = args.round_seats;
            let asked =
                asking::ask(crowd, event_id, seats, args.connections, Pace::Closed, None).await?;
            crowd.stripe.faults().clear();
            say(format_args!(
                "  Stripe {:<8} {:>6.0} seats/s held",
                delay.map_or("quick".to_owned(), |ms| format!("{ms} ms")),
                asked.seats_per_second()
            ));
            if round > 0 {
                // The first round warms up.
                rates.push(asked.seats_per_second());
            }
        }
    }
    Ok((median(&quick), median(&slow)))
}

/// Measures the baseline: the statement on PostgreSQL alone.
async fn alone(args: &Args, crowd: &Crowd<'_>) -> anyhow::Result<Option<f64>> {
    if args.batch == 0 {
        return Ok(None);
    }
    let event_id = new_house(crowd.subject, args.seats).await?;
    batch::seats_per_second(crowd, event_id, args.batch, args.seats).await
}

impl Sold {
    fn print(&self, seats: u32) {
        self.asked.print("sell-out");
        say(format_args!(
            "confirmed: {seats} tickets in {:.1} s, {:.0}/s end to end, {:.0}/s while it flowed; \
             Onsale's CPU {:.0} us a ticket",
            self.elapsed.as_secs_f64(),
            self.per_second(seats),
            self.flowing,
            self.cpu.as_secs_f64() * 1e6 / f64::from(seats),
        ));
    }

    /// Tickets a second, from the first request to the last ticket.
    fn per_second(&self, seats: u32) -> f64 {
        f64::from(seats) / self.elapsed.as_secs_f64()
    }
}

fn print_all(
    args: &Args,
    sold: &Sold,
    half: Option<&Asked>,
    slow: Option<(f64, f64)>,
    alone: Option<f64>,
) {
    sold.print(args.seats);
    if let Some(half) = half {
        half.print("half load");
    }
    if let Some((quick, slow)) = slow {
        say(format_args!(
            "holds with a slow Stripe: {slow:.0} seats/s, with a quick one {quick:.0}: {:+.1} %",
            100.0 * (slow / quick - 1.0)
        ));
    }
    let ratio = alone.map(|alone| {
        let ratio = 100.0 * sold.asked.seats_per_second() / alone;
        say(format_args!(
            "PostgreSQL alone, {} bookings a statement: {alone:.0} seats/s; the sale reached \
             {ratio:.0} % of it",
            args.batch
        ));
        format!("{alone:.0} | {ratio:.0} %")
    });
    if args.markdown {
        let latency = |asked: &Asked| format!("{:.0} / {:.0} ms", asked.ms(0.5), asked.ms(0.99));
        say(format_args!(
            "| {} | {:.0} | {} | {} | {:.0} | {:.0} | {} |",
            args.seats,
            sold.asked.seats_per_second(),
            latency(&sold.asked),
            half.map_or("not measured".to_owned(), latency),
            sold.per_second(args.seats),
            sold.flowing,
            ratio.as_deref().unwrap_or("not measured | "),
        ));
    }
}
