//! `POST /api/tickets/{code}/transfer`: transfers a ticket to another account and invalidates its
//! code; `POST /api/tickets/{code}/replace`: issues a new code to its holder; `GET /api/tickets`:
//! tickets that changed hands.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use chrono::{DateTime, Utc};
use domain::booking::{Booking, TicketFacts};
use domain::message::TicketTransferred;
use domain::{AccountId, BookingId, EventId, SeatId};
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::limits::{Key, Quota};
use platform::outbox;
use platform::pg::{BrokenInvariant, run_tx};
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use platform::service::Context;
use platform::tokens::KeyRing;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::OWNER;
use crate::code::new_code;
use crate::door;
use crate::store::accounts::{self, Tally};
use crate::store::bookings;
use crate::store::transfers::{self, Replaced, Ticket, TransferredTicket};

/// Longest mail address, in characters.
const MAX_ADDRESS_CHARS: usize = 254;
/// Few, because each try reveals whether it succeeded.
const TRANSFERS: Quota = Quota {
    burst: 20,
    per: Duration::from_secs(600),
};

pub(crate) fn routes(ctx: &Context) -> Router {
    let limit = |name| ctx.limits.layer(name, TRANSFERS, Key::Account);
    Router::new()
        .route(
            "/api/tickets/{code}/transfer",
            post(transfer).layer(limit("transfer")),
        )
        .route(
            "/api/tickets/{code}/replace",
            post(replace).layer(limit("replace-code")),
        )
        .route("/api/tickets", get(changed_hands))
        .with_state(Arc::new(ctx.clone()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferBody {
    /// The mail address that the recipient signs in with.
    to: String,
}

#[derive(Serialize)]
struct TransferResponse {
    ticket: FormerTicket,
}

/// The ticket as its former holder sees it, without the new code.
#[derive(Debug, Serialize)]
struct FormerTicket {
    event_id: EventId,
    booking_id: BookingId,
    seat_id: SeatId,
    state: &'static str,
    transferred_at: DateTime<Utc>,
    transferred_to: AccountId,
}

/// Transfers a ticket. Idempotent.
///
/// # Errors
/// `not-found`; `forbidden` unless the caller holds it; `invalid` without an address; `conflict`
/// when the event, the ticket or the recipient does not allow it.
async fn transfer(
    State(ctx): State<Arc<Context>>,
    caller: Caller,
    Path(code): Path<String>,
    Json(wanted): Json<TransferBody>,
) -> Result<Json<TransferResponse>, Problem> {
    let to = wanted.to.trim();
    if !to.contains('@') || to.chars().count() > MAX_ADDRESS_CHARS {
        let problem = Problem::new(
            Kind::Invalid,
            "Name the mail address that the recipient signs in with.",
        );
        return Err(problem.with("field", "to"));
    }
    let now = ctx.clock.now();
    let transferring = run_tx(&ctx.db, "transfer_ticket", |tx| {
        Box::pin(change_holder(
            tx,
            &ctx.keys,
            &code,
            caller.account_id,
            to,
            now,
        ))
    });
    let given = transferring.await?;
    outbox::wake(OWNER);
    Ok(Json(TransferResponse { ticket: given }))
}

async fn change_holder(
    conn: &mut PgConnection,
    keys: &KeyRing,
    code: &str,
    by: AccountId,
    to: &str,
    now: DateTime<Utc>,
) -> Result<FormerTicket, Refusal> {
    let (booking_id, ticket) = lock(conn, code, by).await?;
    let recipient = transfers::account_at(conn, to).await?;
    if let Some(before) = before(&ticket) {
        if recipient == Some(before.transferred_to) {
            return Ok(before);
        }
        return Err(conflict("This ticket was already transferred to another account.").into());
    }
    check(conn, booking_id, &ticket).await?;
    let recipient = recipient.filter(|to| *to != by).ok_or_else(unavailable)?;
    count(conn, &ticket, by, recipient).await?;
    if !transfers::cancel(conn, &ticket, now).await? {
        return Err(conflict("This ticket is no longer valid.").into());
    }
    announce(conn, keys, &ticket, recipient, now).await?;
    Ok(FormerTicket::new(&ticket, now, recipient))
}

/// Locks the ticket of `by` with this code, and its booking.
async fn lock(
    conn: &mut PgConnection,
    code: &str,
    by: AccountId,
) -> Result<(BookingId, Ticket), Refusal> {
    let locked = transfers::lock_booking(conn, code).await?;
    // A separate statement, which sees what was committed while it waited for the lock.
    let found = transfers::find(conn, code).await?;
    let Some((booking_id, ticket)) = locked.zip(found) else {
        return Err(match transfers::replaced(conn, code).await? {
            Some(Replaced { replaced_at, .. }) => door::replaced(replaced_at).into(),
            None => Problem::new(Kind::NotFound, "There is no such ticket.").into(),
        });
    };
    if ticket.account_id != by {
        let detail = "Only the holder of a ticket can do this.";
        return Err(Problem::new(Kind::Forbidden, detail).into());
    }
    Ok((booking_id, ticket))
}

impl FormerTicket {
    fn new(ticket: &Ticket, transferred_at: DateTime<Utc>, transferred_to: AccountId) -> Self {
        Self {
            event_id: ticket.event_id,
            booking_id: ticket.booking_id,
            seat_id: ticket.seat_id,
            state: "transferred",
            transferred_at,
            transferred_to,
        }
    }
}

/// The earlier transfer of this ticket.
fn before(ticket: &Ticket) -> Option<FormerTicket> {
    let to = AccountId(ticket.transferred_to?);
    Some(FormerTicket::new(ticket, ticket.transferred_at?, to))
}

fn conflict(detail: &'static str) -> Problem {
    Problem::new(Kind::Conflict, detail)
}

/// The same problem for every obstacle, so that it reveals little about who has an account, and
/// nothing about anybody's tickets.
fn unavailable() -> Problem {
    conflict(
        "The ticket can't go to this address. Its owner needs an account with exactly this address, \
         other than yours, and room for one more ticket of this event.",
    )
}

/// Checks that the ticket and its event allow a transfer.
async fn check(
    conn: &mut PgConnection,
    booking_id: BookingId,
    ticket: &Ticket,
) -> Result<(), Refusal> {
    let terms = transfers::terms(conn, booking_id).await?;
    if let Some(at) = ticket.checked_in_at {
        let problem = conflict("This ticket is checked in.");
        return Err(problem.with("checked_in_at", at).into());
    }
    let refusal = if ticket.state == "cancelled" {
        "This ticket was cancelled."
    } else if !terms.is_allowed {
        "Tickets of this event can't be transferred."
    } else if !terms.is_paid {
        "The payment is not finished yet. Try again in a moment."
    } else if terms.is_refunded {
        "This booking was refunded, so its tickets can't be transferred."
    } else {
        return Ok(());
    };
    Err(conflict(refusal).into())
}

/// Counts the ticket against the new holder's limit, and no longer against the old one's, unless
/// that is the buyer: tickets an account has bought count for it, regardless of their holder.
async fn count(
    conn: &mut PgConnection,
    ticket: &Ticket,
    from: AccountId,
    to: AccountId,
) -> Result<(), Refusal> {
    let (event_id, buyer) = (ticket.event_id, ticket.buyer);
    accounts::lock(conn, event_id, &[from, to]).await?;
    accounts::subtract(conn, &Tally::from([((event_id, from), 1)]), &Tally::new()).await?;
    if from == buyer {
        accounts::give_away(conn, event_id, buyer, 1).await?;
    } else if to == buyer {
        accounts::give_away(conn, event_id, buyer, -1).await?;
    }
    if !accounts::add(conn, &Tally::from([((event_id, to), 1)])).await? {
        return Err(unavailable().into());
    }
    Ok(())
}

#[derive(Serialize)]
struct Renewed {
    ticket: Renewal,
}

/// The ticket with its new code, as its holder sees it.
#[derive(Debug, Serialize)]
struct Renewal {
    event_id: EventId,
    booking_id: BookingId,
    seat_id: SeatId,
    state: &'static str,
    code: String,
}

/// Replaces the code of a ticket; the old one becomes invalid. Idempotent.
///
/// # Errors
/// `not-found`; `forbidden` unless the caller holds it; `conflict` when it is not valid.
async fn replace(
    State(ctx): State<Arc<Context>>,
    caller: Caller,
    Path(code): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    let now = ctx.clock.now();
    let replacing = run_tx(&ctx.db, "replace_code", |tx| {
        Box::pin(renew(tx, &ctx.keys, &code, caller.account_id, now))
    });
    let ticket = replacing.await?;
    outbox::wake(OWNER);
    Ok(([(CACHE_CONTROL, "no-store")], Json(Renewed { ticket })))
}

async fn renew(
    conn: &mut PgConnection,
    keys: &KeyRing,
    code: &str,
    by: AccountId,
    now: DateTime<Utc>,
) -> Result<Renewal, Refusal> {
    // The current code, when this is a repeat.
    let replaced = transfers::replaced(conn, code).await?;
    let current = replaced.as_ref().map_or(code, |replaced| &replaced.code);
    let (booking_id, ticket) = lock(conn, current, by).await?;
    let renewal = |code| Renewal {
        event_id: ticket.event_id,
        booking_id,
        seat_id: ticket.seat_id,
        state: "valid",
        code,
    };
    if ticket.state != "valid" {
        return Err(conflict("This ticket is no longer valid.").into());
    }
    if replaced.is_some() {
        return Ok(renewal(current.to_owned()));
    }
    let new = new_code(keys, ticket.event_id, ticket.seat_id);
    let number = transfers::replace_code(conn, &ticket, code, &new, now).await?;
    let number = number.ok_or_else(|| conflict("This ticket is no longer valid."))?;
    emit(conn, &ticket, &new, by, number).await?;
    Ok(renewal(new))
}

/// Inserts the new ticket and publishes it.
async fn announce(
    conn: &mut PgConnection,
    keys: &KeyRing,
    ticket: &Ticket,
    to: AccountId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let code = new_code(keys, ticket.event_id, ticket.seat_id);
    let number = transfers::replace(conn, ticket, to, &code, now).await?;
    emit(conn, ticket, &code, to, number).await
}

/// Publishes the ticket's new code and its holder.
async fn emit(
    conn: &mut PgConnection,
    ticket: &Ticket,
    code: &str,
    to: AccountId,
    number: i64,
) -> Result<(), sqlx::Error> {
    let id = ticket.booking_id;
    let code = code.to_owned();
    let booking = bookings::read(conn, &[id]).await?.remove(&id);
    let Some(Booking::Confirmed { facts, .. }) = booking else {
        return Err(
            BrokenInvariant("a ticket that changes hands is of a confirmed booking").into(),
        );
    };
    let seat = facts.seats.iter().find(|seat| seat.id == ticket.seat_id);
    let seat = seat
        .cloned()
        .ok_or(BrokenInvariant("a ticket's seat is one of its booking's"))?;
    let message = TicketTransferred {
        booking: facts,
        ticket: TicketFacts { code, seat },
        from: ticket.account_id,
        to,
        number,
    };
    outbox::put(conn, OWNER, &message).await
}

#[derive(Serialize)]
struct Tickets {
    tickets: Vec<TransferredTicket>,
}

/// `GET /api/tickets`: tickets that the caller received or gave away, newest first. Those that were
/// bought are listed with their bookings.
async fn changed_hands(
    State(ctx): State<Arc<Context>>,
    caller: Caller,
) -> Result<Json<Tickets>, Problem> {
    let tickets = transfers::of_account(&ctx.db, caller.account_id).await?;
    Ok(Json(Tickets { tickets }))
}
