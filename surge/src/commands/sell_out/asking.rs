//! Load generator of booking requests, in closed or open loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use domain::EventId;
use hdrhistogram::Histogram;
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::load::Pace;
use super::super::say;
use super::super::wire::Connection;
use super::crowd::Crowd;
use super::paying::{Held, Payers};

/// Upper bound of the latency histogram, in microseconds.
const MAX_LATENCY_US: u64 = 60_000_000;
/// Pause before an undecided booking is polled, and before a shed request is retried.
const PAUSE: Duration = Duration::from_millis(250);

/// Result of a run.
pub(super) struct Asked {
    /// Seats held.
    pub(super) seats: u64,
    bookings: u64,
    /// Answered 202 at first.
    late: u64,
    /// Rejected, most often for want of adjacent seats.
    refused: u64,
    /// Answered 429 or 503 and retried.
    busy: u64,
    /// From the first request to the last response.
    elapsed: Duration,
    /// From the intended send time until the seats were known to be held.
    latency: Histogram<u64>,
}

/// A pre-built request.
struct Wish {
    account: i64,
    tickets: u64,
    bytes: Vec<u8>,
}

#[derive(Deserialize)]
struct BookingResponse {
    booking: Booking,
}

#[derive(Deserialize)]
struct Booking {
    id: Uuid,
    state: String,
}

/// State shared by the connections.
struct Plan {
    wishes: Vec<Wish>,
    next: AtomicUsize,
    begun: Instant,
    pace: Pace,
    access: Vec<String>,
    host: String,
}

/// Requests `seats` seats, two and three at a time, over `connections`.
pub(super) async fn ask(
    crowd: &Crowd<'_>,
    event_id: EventId,
    seats: u32,
    connections: u32,
    pace: Pace,
    payers: Option<&Payers>,
) -> anyhow::Result<Asked> {
    let mut tickets = Vec::new();
    let mut left = seats;
    while left > 0 {
        let wanted = (2 + u32::from(tickets.len() % 2 == 1)).min(left);
        left -= wanted;
        tickets.push(wanted);
    }
    run(crowd, event_id, &tickets, connections, pace, payers).await
}

/// Requests `seats` seats one at a time; returns the number held.
pub(super) async fn ask_singly(
    crowd: &Crowd<'_>,
    event_id: EventId,
    seats: u32,
    payers: &Payers,
) -> anyhow::Result<u64> {
    let tickets = vec![1; usize::try_from(seats)?];
    let asked = run(crowd, event_id, &tickets, 8, Pace::Closed, Some(payers)).await?;
    Ok(asked.seats)
}

async fn run(
    crowd: &Crowd<'_>,
    event_id: EventId,
    tickets: &[u32],
    connections: u32,
    pace: Pace,
    payers: Option<&Payers>,
) -> anyhow::Result<Asked> {
    let (mut wishes, mut access) = (Vec::new(), Vec::new());
    for &tickets in tickets {
        let account = crowd.next_account();
        let token = crowd.subject.access_token(account);
        wishes.push(Wish {
            account,
            tickets: tickets.into(),
            bytes: crowd.subject.book(event_id, account, tickets),
        });
        access.push(token);
    }
    let target = crowd.subject.address;
    let mut lanes = Vec::new();
    for lane in 0..connections {
        let payer = payers.map(|payers| payers.of_lane(lane));
        lanes.push((Connection::open(target).await?, payer));
    }
    let plan = Arc::new(Plan {
        wishes,
        next: AtomicUsize::new(0),
        begun: Instant::now(),
        pace,
        access,
        host: target.to_string(),
    });
    let mut running = JoinSet::new();
    for (connection, payer) in lanes {
        running.spawn(drive(connection, Arc::clone(&plan), payer));
    }
    let mut total = Asked::none();
    while let Some(lane) = running.join_next().await {
        total.add(&lane??)?;
    }
    total.elapsed = plan.begun.elapsed();
    Ok(total)
}

async fn drive(
    mut connection: Connection,
    plan: Arc<Plan>,
    payer: Option<tokio::sync::mpsc::UnboundedSender<Held>>,
) -> anyhow::Result<Asked> {
    let mut lane = Asked::none();
    while let Some((nth, intended)) = plan.next().await {
        let wish = &plan.wishes[nth];
        let Some(id) = lane.hold(&mut connection, &plan, nth).await? else {
            continue;
        };
        let micros = u64::try_from(intended.elapsed().as_micros()).unwrap_or(MAX_LATENCY_US);
        lane.latency.saturating_record(micros);
        lane.bookings += 1;
        lane.seats += wish.tickets;
        if let Some(payer) = &payer {
            let held = Held {
                booking_id: id,
                access: plan.access[nth].clone(),
                at: Instant::now(),
            };
            // A payer that is gone has failed, which surfaces when all are joined.
            let _gone = payer.send(held);
        }
    }
    Ok(lane)
}

impl Plan {
    /// Waits for the next request; returns its index and its intended send time.
    async fn next(&self) -> Option<(usize, Instant)> {
        let nth = self.next.fetch_add(1, Ordering::Relaxed);
        if nth >= self.wishes.len() {
            return None;
        }
        let intended = match self.pace {
            Pace::Closed => Instant::now(),
            Pace::Open { per_second } => {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^53 requests")]
                let after = Duration::from_secs_f64(nth as f64 / per_second);
                let intended = self.begun + after;
                tokio::time::sleep_until(intended).await;
                intended
            }
        };
        Some((nth, intended))
    }
}

impl Asked {
    fn none() -> Self {
        Self {
            seats: 0,
            bookings: 0,
            late: 0,
            refused: 0,
            busy: 0,
            elapsed: Duration::ZERO,
            latency: Histogram::new_with_max(MAX_LATENCY_US, 3)
                .expect("three digits up to a minute fit"),
        }
    }

    /// Sends a request until it is decided; returns the booking when seats are held.
    async fn hold(
        &mut self,
        connection: &mut Connection,
        plan: &Plan,
        nth: usize,
    ) -> anyhow::Result<Option<Uuid>> {
        let wish = &plan.wishes[nth];
        loop {
            let answer = connection.exchange(&wish.bytes).await?;
            match answer.status {
                201 => return Ok(Some(booking(answer.body)?.id)),
                202 => {
                    self.late += 1;
                    let id = booking(answer.body)?.id;
                    return self.look(connection, plan, nth, id).await;
                }
                409 => {
                    self.refused += 1;
                    return Ok(None);
                }
                429 | 503 => {
                    self.busy += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                status => bail!(
                    "account {} was answered {status}: {}",
                    wish.account,
                    String::from_utf8_lossy(answer.body)
                ),
            }
        }
    }

    /// Polls a booking until it is decided.
    async fn look(
        &mut self,
        connection: &mut Connection,
        plan: &Plan,
        nth: usize,
        id: Uuid,
    ) -> anyhow::Result<Option<Uuid>> {
        let request = super::paying::look(&plan.host, &plan.access[nth], id);
        loop {
            tokio::time::sleep(PAUSE).await;
            let answer = connection.exchange(&request).await?;
            if answer.status != 200 {
                bail!("booking {id} was answered {}", answer.status);
            }
            match booking(answer.body)?.state.as_str() {
                "requested" => {}
                "held" | "confirmed" => return Ok(Some(id)),
                _ => {
                    self.refused += 1;
                    return Ok(None);
                }
            }
        }
    }

    fn add(&mut self, lane: &Self) -> anyhow::Result<()> {
        self.seats += lane.seats;
        self.bookings += lane.bookings;
        self.late += lane.late;
        self.refused += lane.refused;
        self.busy += lane.busy;
        self.latency.add(&lane.latency)?;
        Ok(())
    }

    /// Rate of seats held, per second.
    pub(super) fn seats_per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let seats = self.seats as f64;
        seats / self.elapsed.as_secs_f64()
    }

    /// Quantile of the time until the seats were held, in milliseconds.
    pub(super) fn ms(&self, quantile: f64) -> f64 {
        Duration::from_micros(self.latency.value_at_quantile(quantile)).as_secs_f64() * 1e3
    }

    pub(super) fn print(&self, what: &str) {
        say(format_args!(
            "{what}: {} seats held in {:.1} s, {:.0} seats/s in {} bookings; request to held p50 \
             {:.0} ms, p99 {:.0} ms; {} late, {} refused, {} turned away for a moment",
            self.seats,
            self.elapsed.as_secs_f64(),
            self.seats_per_second(),
            self.bookings,
            self.ms(0.5),
            self.ms(0.99),
            self.late,
            self.refused,
            self.busy,
        ));
    }
}

fn booking(body: &[u8]) -> anyhow::Result<Booking> {
    let answer: BookingResponse =
        serde_json::from_slice(body).context("an answer without a booking")?;
    Ok(answer.booking)
}
