//! `POST /api/tickets/{code}/check-in`, for staff at the door of an event; `DELETE` undoes it.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use chrono::{DateTime, Utc};
use domain::account::Role;
use domain::message::AuditNoted;
use domain::{AccountId, BookingId, EventId, SeatId};
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::idempotency::{self, Begin};
use platform::outbox;
use platform::pg::run_tx;
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use platform::service::Context;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use crate::OWNER;
use crate::store::tickets::{self, AtTheDoor};

pub(crate) fn routes(ctx: &Context) -> Router {
    Router::new()
        .route("/api/tickets/{code}/check-in", post(check_in).delete(undo))
        .with_state(Arc::new(ctx.clone()))
}

const STAFF: [Role; 3] = [Role::Operator, Role::Organiser, Role::Admin];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CheckInBody {
    /// The event at whose door the code is scanned.
    event_id: EventId,
}

#[derive(Serialize)]
struct CheckedInResponse {
    ticket: DoorTicket,
}

#[derive(Serialize)]
struct DoorTicket {
    event_id: EventId,
    booking_id: BookingId,
    seat_id: SeatId,
    state: String,
    checked_in_at: Option<DateTime<Utc>>,
}

/// A scan of a code at the door of an event.
struct Scan {
    code: String,
    event_id: EventId,
    by: AccountId,
    key: Option<String>,
    at: DateTime<Utc>,
}

/// Checks a ticket of this event in, once. A repeat with the same `Idempotency-Key` gets the first
/// answer, for a door that lost it; without the key a repeat is another person with the same code.
///
/// # Errors
/// `forbidden` unless the caller belongs to staff; `not-found`; `conflict` when the ticket is for
/// another event, checked in (with the time), transferred, replaced, or cancelled.
async fn check_in(
    State(ctx): State<Arc<Context>>,
    caller: Caller,
    headers: HeaderMap,
    Path(code): Path<String>,
    Json(wanted): Json<CheckInBody>,
) -> Result<Response, Problem> {
    let everywhere = [Role::Operator];
    caller
        .require_event(&ctx.db, wanted.event_id, &everywhere)
        .await?;
    let scan = Scan {
        code,
        event_id: wanted.event_id,
        by: caller.account_id,
        key: idempotency::key_of(&headers)?.map(str::to_owned),
        at: ctx.clock.now(),
    };
    let checking = run_tx(&ctx.db, "check_in", |tx| Box::pin(admit_once(tx, &scan)));
    let (body, is_replay) = checking.await?;
    outbox::wake(OWNER);
    let headers = [
        (CACHE_CONTROL, "no-store"),
        (CONTENT_TYPE, "application/json"),
    ];
    let mut response = (headers, body).into_response();
    if is_replay {
        let replayed = HeaderValue::from_static("true");
        response
            .headers_mut()
            .insert("idempotent-replayed", replayed);
    }
    Ok(response)
}

/// Returns the answer, and whether it is replayed.
async fn admit_once(conn: &mut PgConnection, scan: &Scan) -> Result<(Vec<u8>, bool), Refusal> {
    let token = match &scan.key {
        None => None,
        Some(key) => match begin(conn, scan, key).await? {
            Begin::Fresh(token) => Some(token),
            Begin::Replay { body, .. } => return Ok((body, true)),
            Begin::Mismatch => return Err(idempotency::reused().into()),
            Begin::InProgress => return Err(idempotency::in_progress().into()),
        },
    };
    let Scan {
        code,
        event_id,
        by,
        at,
        ..
    } = scan;
    let Some(ticket) = tickets::check_in(conn, code, *event_id, *by, *at).await? else {
        return Err(refusal(conn, scan).await?.into());
    };
    let detail = json!({ "event_id": event_id, "seat_id": ticket.seat_id });
    let subject = format!("booking:{}", ticket.booking_id);
    let note = AuditNoted::new(*by, "ticket.check-in", subject, detail, *at);
    outbox::put(conn, OWNER, &note).await?;
    let ticket = DoorTicket::from(ticket);
    let body = serde_json::to_vec(&CheckedInResponse { ticket }).expect("an answer is plain data");
    if let Some(token) = token {
        idempotency::finish(conn, token, StatusCode::OK.as_u16(), &body).await?;
    }
    Ok((body, false))
}

async fn begin(conn: &mut PgConnection, scan: &Scan, key: &str) -> Result<Begin, sqlx::Error> {
    let scope = format!("check-in:{}", scan.by);
    let event = scan.event_id.0.to_be_bytes();
    let hash = idempotency::request_hash(&[scan.code.as_bytes(), &event]);
    idempotency::begin(conn, &scope, key, &hash, scan.at).await
}

/// Returns the reason for refusing a code.
async fn refusal(conn: &mut PgConnection, scan: &Scan) -> Result<Problem, sqlx::Error> {
    let conflict = |detail: &'static str| Problem::new(Kind::Conflict, detail);
    let Some(ticket) = tickets::find(conn, &scan.code).await? else {
        return Ok(match tickets::replaced_at(conn, &scan.code).await? {
            Some(at) => replaced(at),
            None => unknown(),
        });
    };
    if ticket.event_id != scan.event_id {
        let problem = conflict("This ticket is for another event.");
        return Ok(problem.with("event_id", ticket.event_id));
    }
    Ok(match (ticket.checked_in_at, ticket.transferred_at) {
        (Some(at), _) if ticket.state == "checked_in" => {
            conflict("This ticket is checked in already.").with("checked_in_at", at)
        }
        (_, Some(at)) => {
            conflict("This ticket was transferred, and its new holder has another code.")
                .with("transferred_at", at)
        }
        (_, None) => conflict("This ticket was cancelled."),
    })
}

fn unknown() -> Problem {
    Problem::new(Kind::NotFound, "There is no such ticket.")
}

/// The problem for a code that was replaced.
pub(crate) fn replaced(at: DateTime<Utc>) -> Problem {
    let detail = "This code was replaced: the holder of the ticket has a new one.";
    Problem::new(Kind::Conflict, detail).with("replaced_at", at)
}

/// Undoes a check-in that was made by mistake. Idempotent.
///
/// # Errors
/// `forbidden` unless the caller belongs to staff; `not-found`; `conflict` when the ticket is not
/// valid.
async fn undo(
    State(ctx): State<Arc<Context>>,
    caller: Caller,
    Path(code): Path<String>,
) -> Result<impl IntoResponse, Problem> {
    caller.require_any(&STAFF)?;
    reaches(&ctx, &caller, &code).await?;
    let (by, now) = (caller.account_id, ctx.clock.now());
    let undoing = run_tx(&ctx.db, "undo_check_in", |tx| {
        Box::pin(take_back(tx, &code, by, now))
    });
    let ticket = undoing.await?;
    outbox::wake(OWNER);
    Ok((
        [(CACHE_CONTROL, "no-store")],
        Json(CheckedInResponse { ticket }),
    ))
}

/// Checks that the caller may act for the event of a ticket.
async fn reaches(ctx: &Context, caller: &Caller, code: &str) -> Result<(), Problem> {
    let found = {
        let mut conn = ctx.db.acquire().await?;
        tickets::find(&mut conn, code).await?
    };
    let event_id = found.ok_or_else(unknown)?.event_id;
    let reached = caller.require_event(&ctx.db, event_id, &[Role::Operator]);
    reached.await.map_err(|problem| match problem.kind() {
        Kind::NotFound => unknown(),
        _ => problem,
    })
}

async fn take_back(
    conn: &mut PgConnection,
    code: &str,
    by: AccountId,
    now: DateTime<Utc>,
) -> Result<DoorTicket, Refusal> {
    if let Some(undone) = tickets::undo_check_in(conn, code).await? {
        let ticket = undone.ticket;
        let detail = json!({
            "event_id": ticket.event_id,
            "seat_id": ticket.seat_id,
            "checked_in_at": undone.checked_in_at,
            "checked_in_by": undone.checked_in_by,
        });
        let subject = format!("booking:{}", ticket.booking_id);
        let note = AuditNoted::new(by, "ticket.check-in.undo", subject, detail, now);
        outbox::put(conn, OWNER, &note).await?;
        return Ok(ticket.into());
    }
    match tickets::find(conn, code).await? {
        Some(ticket) if ticket.state == "valid" => Ok(ticket.into()),
        Some(_) => {
            let detail = "This ticket is not valid, and it is not checked in.";
            Err(Problem::new(Kind::Conflict, detail).into())
        }
        None => Err(unknown().into()),
    }
}

impl From<AtTheDoor> for DoorTicket {
    fn from(ticket: AtTheDoor) -> Self {
        Self {
            event_id: ticket.event_id,
            booking_id: ticket.booking_id,
            seat_id: ticket.seat_id,
            state: ticket.state,
            checked_in_at: ticket.checked_in_at,
        }
    }
}
