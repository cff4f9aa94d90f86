//! Transition requested → held or rejected: a batch of requests in one transaction.
//!
//! Optimistic concurrency: everything is read without locks, decided in memory, and written with
//! guards: a seat must still be free, an account within its limit, a booking undecided. When a
//! guard fails, somebody else wrote first: the transaction is rolled back and the batch decided
//! anew. Normally nobody else writes, for each partition has one worker.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use domain::BookingId;
use domain::booking::{Booking, BookingFacts, CancelRefusal};
use domain::limits::MAX_SEATS_PER_EVENT;
use domain::message::{AuditNoted, HoldPlaced, Outcome, PlaceHold};
use platform::outbox::{self, Staged};
use platform::pg::run_tx;
use platform::service::Context;
use platform::tokens::KeyRing;
use serde_json::json;
use sqlx::PgConnection;

use crate::OWNER;
use crate::confirm::confirm_free;
use crate::error::WorkError;
use crate::market::{Decision, Market, ReadMore, forecast};
use crate::metrics;
use crate::store::accounts::Tally;
use crate::store::bookings::Decided;
use crate::store::{accounts, bookings, market, seats};

/// Most attempts of a batch that loses to concurrent writers.
const MAX_ROUNDS: u32 = 5;

#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) command: PlaceHold,
    /// `true` if its event may still become known, so that an unknown one does not reject it yet.
    pub(crate) may_wait: bool,
}

/// Outcome of a request or a cancellation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Handled {
    /// It is decided.
    Decided(Outcome),
    /// A confirmed booking that was to be cancelled stays, for this reason.
    Denied(CancelRefusal),
    /// It names something that is not known yet: the event, the sale, or the booking to be
    /// cancelled.
    Wait,
}

struct Placed {
    answers: Vec<Handled>,
    /// Outcomes decided by this batch.
    decided: Vec<Outcome>,
    /// Messages to be published after the commit.
    staged: Staged,
}

/// Decides requests and commits. Idempotent: a decided booking gets its outcome again.
pub(crate) async fn place_holds(
    ctx: &Context,
    requests: &[Request],
    now: DateTime<Utc>,
) -> Result<Vec<Handled>, WorkError> {
    let mut round = 1;
    loop {
        // Hardly any request was decided before, and the guard of the write finds those.
        let may_be_decided = round > 1;
        let placed = run_tx(&ctx.db, "place_holds", |tx| {
            Box::pin(place(tx, requests, may_be_decided, now, &ctx.keys))
        });
        match placed.await {
            Err(WorkError::Moved) if round < MAX_ROUNDS => round += 1,
            Err(error) => return Err(error),
            Ok(Placed {
                answers,
                decided,
                staged,
            }) => {
                ctx.send_soon(staged);
                decided.iter().for_each(metrics::request_decided);
                return Ok(answers);
            }
        }
    }
}

async fn place(
    conn: &mut PgConnection,
    requests: &[Request],
    may_be_decided: bool,
    now: DateTime<Utc>,
    keys: &KeyRing,
) -> Result<Placed, WorkError> {
    let mut outcomes = HashMap::new();
    if may_be_decided {
        let ids: Vec<_> = requests
            .iter()
            .map(|request| request.command.booking_id)
            .collect();
        let decided = bookings::read(conn, &ids).await?.into_iter();
        outcomes.extend(decided.map(|(id, booking)| (id, outcome_of(booking))));
    }
    let mut seen = HashSet::new();
    let undecided: Vec<_> = requests
        .iter()
        .filter(|request| {
            let id = request.command.booking_id;
            !outcomes.contains_key(&id) && seen.insert(id)
        })
        .collect();
    let mut staged = Staged::of(OWNER);
    let new = decide_and_write(conn, &undecided, now, keys, &mut staged).await?;
    let decided = new.iter().map(|(_, outcome)| outcome.clone()).collect();
    outcomes.extend(new);
    let answer = |request: &Request| match outcomes.get(&request.command.booking_id) {
        Some(outcome) => Handled::Decided(outcome.clone()),
        None => Handled::Wait,
    };
    Ok(Placed {
        answers: requests.iter().map(answer).collect(),
        decided,
        staged,
    })
}

/// The outcome of a booking that was decided before.
fn outcome_of(booking: Booking) -> Outcome {
    match booking {
        Booking::Held { facts, .. } => Outcome::Held(facts),
        Booking::Confirmed { facts, .. } => Outcome::Confirmed(facts),
        Booking::Rejected(reason) => Outcome::Rejected(reason),
        Booking::Cancelled(_) => Outcome::Cancelled,
        Booking::Expired(_) | Booking::Requested => Outcome::Refused(booking.state()),
    }
}

async fn decide_and_write(
    conn: &mut PgConnection,
    undecided: &[&Request],
    now: DateTime<Utc>,
    keys: &KeyRing,
    staged: &mut Staged,
) -> Result<Vec<(BookingId, Outcome)>, WorkError> {
    if undecided.is_empty() {
        return Ok(Vec::new());
    }
    let commands: Vec<_> = undecided.iter().map(|request| &request.command).collect();
    let market = market::read(conn, &commands, now).await?;
    let ready: Vec<_> = undecided
        .iter()
        .filter(|request| !request.may_wait || market.terms.contains_key(&request.command.event_id))
        .map(|request| &request.command)
        .collect();
    let decisions = decide(conn, &market, &ready, now).await?;
    let decided: Vec<_> = ready
        .iter()
        .zip(&decisions)
        .map(|(request, decision)| Decided { request, decision })
        .collect();
    write(conn, &decided, now, keys, staged).await
}

/// Decides `requests` in order, reading as many free seats as needed.
async fn decide(
    conn: &mut PgConnection,
    market: &Market,
    requests: &[&PlaceHold],
    now: DateTime<Utc>,
) -> Result<Vec<Decision>, WorkError> {
    const FIRST_WINDOW: u32 = 512;
    let mut demand = forecast(market, requests);
    // Doubled each round: where only scattered seats are left, a house is read in a few rounds.
    let mut sections_widened = 1;
    loop {
        let mut market = market.clone();
        market::read_free_seats(conn, &mut market, &demand).await?;
        let decisions: Result<Vec<_>, _> = requests
            .iter()
            .map(|request| market.decide(request, now))
            .collect();
        match decisions {
            Ok(decisions) => return Ok(decisions),
            Err(ReadMore(unread)) => {
                for section in unread.into_iter().take(sections_widened) {
                    let window = demand.entry(section).or_default();
                    // One more than there can be: fewer rows than that are all.
                    *window = window
                        .saturating_mul(8)
                        .clamp(FIRST_WINDOW, MAX_SEATS_PER_EVENT + 1);
                }
                sections_widened *= 2;
            }
        }
    }
}

/// The audit entry of a hold that staff placed for somebody else.
fn noted(
    Decided { request, decision }: &Decided<'_>,
    now: DateTime<Utc>,
) -> Option<Result<outbox::Entry, sqlx::Error>> {
    let by = request.asked_by.filter(|by| *by != request.account_id)?;
    let Decision::Hold { seats, .. } = decision else {
        return None;
    };
    let detail = json!({
        "event_id": request.event_id,
        "account_id": request.account_id,
        "tickets": seats.len(),
    });
    let subject = format!("booking:{}", request.booking_id);
    let note = AuditNoted::new(by, "booking.place", subject, detail, now);
    Some(outbox::Entry::new(&note))
}

/// Writes decisions. [`WorkError::Moved`] when a guard fails.
async fn write(
    conn: &mut PgConnection,
    decided: &[Decided<'_>],
    now: DateTime<Utc>,
    keys: &KeyRing,
    staged: &mut Staged,
) -> Result<Vec<(BookingId, Outcome)>, WorkError> {
    let mut tally = Tally::new();
    let mut taken = Vec::new();
    let mut held = Vec::new();
    for Decided { request, decision } in decided {
        let Decision::Hold {
            seats,
            total,
            hold_until,
        } = decision
        else {
            continue;
        };
        let owner = (request.event_id, request.account_id);
        *tally.entry(owner).or_default() += crate::count(seats.len());
        taken.extend(seats.iter().map(|seat| (seat.id, request.booking_id)));
        held.push(BookingFacts {
            booking_id: request.booking_id,
            event_id: request.event_id,
            account_id: request.account_id,
            seats: seats.clone(),
            total: *total,
            hold_until: *hold_until,
            created_at: request.accepted_at,
        });
    }
    let (free, due): (Vec<_>, Vec<_>) = held.into_iter().partition(|held| held.total.is_zero());
    let placed = due.iter().map(|booking| {
        outbox::Entry::new(&HoldPlaced {
            booking: booking.clone(),
        })
    });
    let noted = decided.iter().filter_map(|decided| noted(decided, now));
    let entries = placed.chain(noted).collect::<Result<_, _>>()?;

    let guarded =
        bookings::insert(conn, decided, now).await? && accounts::add(conn, &tally).await?;
    if !guarded {
        return Err(WorkError::Moved);
    }
    staged.put_all(conn, entries).await?;
    if !seats::hold(conn, &taken).await? {
        return Err(WorkError::Moved);
    }
    let free_ids: Vec<_> = free.iter().map(|booking| booking.booking_id).collect();
    confirm_free(conn, &free_ids, now, keys, staged).await?;

    let rejected = decided
        .iter()
        .filter_map(|Decided { request, decision }| match decision {
            Decision::Reject(reason) => Some((request.booking_id, Outcome::Rejected(*reason))),
            Decision::Hold { .. } => None,
        });
    let due = due
        .into_iter()
        .map(|booking| (booking.booking_id, Outcome::Held(booking)));
    let free = free
        .into_iter()
        .map(|booking| (booking.booking_id, Outcome::Confirmed(booking)));
    Ok(rejected.chain(due).chain(free).collect())
}
