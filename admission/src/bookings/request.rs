//! `POST /api/bookings`: requests seats.
//!
//! 1. The request is stored under its booking id, together with the `Idempotency-Key`.
//! 2. It is published to the booking worker, with no transaction or connection held.
//! 3. The outcome is awaited for a bounded time; without one the response is 202.
//!
//! A crash between 1 and 2 loses nothing that was acknowledged: the caller has no response, and a
//! repeat with the same key gets the same booking id, which the worker decides once. Only the call
//! that stored a request may withdraw it, and only while no repeat has taken it up.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::booking::{Part, RejectReason, Wish};
use domain::limits::MAX_TICKETS_PER_BOOKING;
use domain::message::PlaceHold;
use domain::{AccountId, EventId, SeatId, SectionId};
use platform::amqp::{Exchange, PublishError};
use platform::auth::Caller;
use platform::http::Json;
use platform::idempotency::{self, Token};
use platform::problem::{Kind, Problem};
use platform::topology;
use serde::Deserialize;
use tracing::Instrument;

use super::access::Access;
use super::writer::{self, IdempotencyKey, NewRequest, Stored};
use super::{answer, repeat};
use crate::outcomes::CommandKind;
use crate::pass;
use crate::state::AppState;
use crate::store::accounts;
use crate::store::requests::{self, AcceptedRequest, BookingRequest};

/// Maximum number of parts of one request.
const MAX_PARTS: usize = 10;
/// Box-office's bound on the name of a tier.
const MAX_TIER_CHARS: usize = 100;

/// The body; `NewBooking` in the OpenAPI document.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBooking {
    event_id: EventId,
    user_id: AccountId,
    tickets: Option<i64>,
    section_id: Option<SectionId>,
    tier: Option<String>,
    wanted: Option<Vec<RequestedPart>>,
    seats: Option<Vec<SeatId>>,
}

/// One of several parts of a request.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RequestedPart {
    tickets: i64,
    section_id: Option<SectionId>,
    tier: Option<String>,
}

/// Outcome of accepting a request.
enum Acceptance {
    /// To be published.
    Fresh(AcceptedRequest, Option<Token>),
    /// A repeat with a known response.
    Replayed(Response),
}

pub(super) async fn request(
    State(state): State<Arc<AppState>>,
    Extension(access): Extension<Access>,
    caller: Caller,
    headers: HeaderMap,
    Json(body): Json<NewBooking>,
) -> Result<Response, Problem> {
    let key = idempotency::key_of(&headers)?.map(str::to_owned);
    let request = body.into_request()?;
    check_buyer(access, &state, &caller, &request).await?;
    check_exists(&state, &caller, request.account_id).await?;
    let may_book = check_bookable(&state, &caller, &request, &headers, state.ctx.clock.now()).await;
    // In its own task, so that it completes even when the caller disconnects.
    let finished = tokio::spawn(
        async move {
            match accept(&state, &caller, key, request, may_book).await? {
                Acceptance::Replayed(response) => Ok(response),
                Acceptance::Fresh(accepted, token) => {
                    let response = place(&state, caller.account_id, &accepted, token).await;
                    let outcome = label(response.status().as_u16());
                    metrics::counter!("admission_booking_requests_total", "outcome" => outcome)
                        .increment(1);
                    Ok(response)
                }
            }
        }
        .in_current_span(),
    );
    finished.await.map_err(|error| Problem::internal(&error))?
}

/// Authorises the caller: buyers book for themselves, staff on the internal listener for
/// others.
async fn check_buyer(
    access: Access,
    state: &AppState,
    caller: &Caller,
    request: &BookingRequest,
) -> Result<(), Problem> {
    if access == Access::Owner && request.account_id != caller.account_id {
        let detail = "You can only book for yourself.";
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    access
        .check(state, caller, request.event_id, request.account_id)
        .await
}

impl NewBooking {
    fn into_request(self) -> Result<BookingRequest, Problem> {
        let has_place = self.section_id.is_some() || self.tier.is_some();
        let wish = match (self.seats, self.tickets, self.wanted) {
            (Some(_), None, None) if has_place => {
                return Err(invalid("section_id", "Seats already have a section."));
            }
            (Some(seats), None, None) => seats_wish(seats)?,
            (None, Some(tickets), None) => Wish::Best(part(RequestedPart {
                tickets,
                section_id: self.section_id,
                tier: self.tier,
            })?),
            (None, None, Some(_)) if has_place => {
                return Err(invalid("section_id", "Each part names its own section."));
            }
            (None, None, Some(parts)) => mixed_wish(parts)?,
            _ => {
                return Err(invalid(
                    "tickets",
                    "Send exactly one of `tickets`, `seats` and `wanted`.",
                ));
            }
        };
        Ok(BookingRequest {
            event_id: self.event_id,
            account_id: self.user_id,
            wish,
        })
    }
}

fn part(requested: RequestedPart) -> Result<Part, Problem> {
    let tickets = u32::try_from(requested.tickets)
        .ok()
        .filter(|count| (1..=MAX_TICKETS_PER_BOOKING).contains(count))
        .ok_or_else(|| {
            invalid(
                "tickets",
                format!("Ask for 1 to {MAX_TICKETS_PER_BOOKING} tickets."),
            )
        })?;
    if requested
        .tier
        .as_ref()
        .is_some_and(|tier| tier.chars().count() > MAX_TIER_CHARS)
    {
        return Err(invalid("tier", "The tier name is too long."));
    }
    Ok(Part {
        tickets,
        section_id: requested.section_id,
        tier: requested.tier,
    })
}

fn mixed_wish(wanted: Vec<RequestedPart>) -> Result<Wish, Problem> {
    if !(1..=MAX_PARTS).contains(&wanted.len()) {
        return Err(invalid(
            "wanted",
            format!("Ask for 1 to {MAX_PARTS} parts."),
        ));
    }
    let parts = wanted.into_iter().map(part).collect::<Result<_, _>>()?;
    let wish = Wish::Mixed(parts);
    if wish.tickets() > MAX_TICKETS_PER_BOOKING {
        let detail = format!("Ask for 1 to {MAX_TICKETS_PER_BOOKING} tickets in all.");
        return Err(invalid("wanted", detail));
    }
    Ok(wish)
}

fn seats_wish(seats: Vec<SeatId>) -> Result<Wish, Problem> {
    let most = usize::try_from(MAX_TICKETS_PER_BOOKING).expect("a small number");
    if !(1..=most).contains(&seats.len()) {
        return Err(invalid("seats", format!("Ask for 1 to {most} seats.")));
    }
    if seats.iter().collect::<HashSet<_>>().len() < seats.len() {
        return Err(invalid("seats", "Name each seat once."));
    }
    Ok(Wish::Seats(seats))
}

fn invalid(field: &'static str, detail: impl Into<String>) -> Problem {
    Problem::new(Kind::Invalid, detail).with("field", field)
}

/// Checks that the account staff book for exists. The caller's own does.
async fn check_exists(state: &AppState, caller: &Caller, buyer: AccountId) -> Result<(), Problem> {
    if buyer == caller.account_id || accounts::exists(&state.ctx.db, buyer).await? {
        return Ok(());
    }
    Err(invalid("user_id", "There is no account with this id."))
}

/// Checks that the sale takes bookings, and that the caller or the buyer holds a pass for it.
async fn check_bookable(
    state: &AppState,
    caller: &Caller,
    request: &BookingRequest,
    headers: &HeaderMap,
    now: DateTime<Utc>,
) -> Result<(), Problem> {
    let sale = state.sales.get(request.event_id).await?;
    if !sale.takes_bookings_at(now) {
        return Err(answer::rejected(RejectReason::SaleClosed));
    }
    if !sale.queue {
        return Ok(());
    }
    let holder = pass::admitted(state, request.event_id, headers)?.sub;
    if holder == caller.account_id.to_string() || holder == request.account_id.to_string() {
        Ok(())
    } else {
        Err(Problem::new(
            Kind::PassInvalid,
            "The pass belongs to another account.",
        ))
    }
}

/// Stores the request, unless it may not be booked or is a repeat. A repeat is replayed or
/// continued, even if its pass has ended since.
async fn accept(
    state: &AppState,
    caller: &Caller,
    key: Option<String>,
    request: BookingRequest,
    may_book: Result<(), Problem>,
) -> Result<Acceptance, Problem> {
    let key = match key {
        None => None,
        Some(key) => Some(IdempotencyKey {
            scope: format!("booking:{}", caller.account_id),
            request_key: format!("{}:{key}", caller.account_id),
            key,
            hash: hash(&request)?,
        }),
    };
    let stored = match (may_book, &key) {
        (Ok(()), _) => state.writer.accept(NewRequest { request, key }).await?,
        (Err(refusal), None) => return Err(refusal),
        (Err(refusal), Some(key)) => {
            writer::repeat(&state.ctx.db, &request, key, refusal, state.ctx.clock.now()).await?
        }
    };
    match stored {
        Stored::Accepted(accepted, token) => Ok(Acceptance::Fresh(accepted, token)),
        Stored::Repeated(begin) => repeat::answer(begin).map(Acceptance::Replayed),
    }
}

fn hash(request: &BookingRequest) -> Result<[u8; 32], Problem> {
    let wish = serde_json::to_vec(&request.wish).map_err(|error| Problem::internal(&error))?;
    Ok(idempotency::request_hash(&[
        &request.event_id.0.to_be_bytes(),
        &request.account_id.0.to_be_bytes(),
        &wish,
    ]))
}

/// Publishes the request, awaits its outcome, and completes or releases its idempotency key.
async fn place(
    state: &AppState,
    asked_by: AccountId,
    accepted: &AcceptedRequest,
    token: Option<Token>,
) -> Response {
    let db = &state.ctx.db;
    match (ask(state, asked_by, accepted).await, token) {
        (Ok(response), Some(token)) => repeat::store(&state.writer, token, response).await,
        (Ok(response), None) => response,
        (Err(problem), token) => {
            if let Some(token) = token
                && let Err(error) = repeat::abandon(db, token).await
            {
                tracing::warn!(%error, "failed to release an idempotency key; it lapses by itself");
            }
            problem.into_response()
        }
    }
}

async fn ask(
    state: &AppState,
    asked_by: AccountId,
    accepted: &AcceptedRequest,
) -> Result<Response, Problem> {
    let full =
        || answer::overloaded("Too many booking requests are waiting; try again in a moment.");
    let Some(expected) = state
        .outcomes
        .expect(accepted.booking_id, CommandKind::Hold)
    else {
        withdraw(state, accepted).await;
        return Err(full());
    };
    match publish(state, asked_by, accepted).await {
        Ok(()) => {}
        Err(PublishError::Full) => {
            withdraw(state, accepted).await;
            return Err(full());
        }
        Err(error) => {
            let is_certain = error.is_certain();
            let problem = Problem::overloaded(&error);
            if is_certain {
                withdraw(state, accepted).await;
            }
            return Err(problem);
        }
    }
    if let Some(reply) = expected.within(state.config.outcome_wait).await {
        return Ok(answer::decided(accepted, reply.outcome));
    }
    if let Err(error) = requests::mark_published(&state.ctx.db, accepted.booking_id).await {
        tracing::error!(
            %error,
            booking_id = %accepted.booking_id,
            "failed to mark a booking request as published; it stays unlisted until decided"
        );
    }
    Ok(answer::undecided(accepted))
}

async fn publish(
    state: &AppState,
    asked_by: AccountId,
    accepted: &AcceptedRequest,
) -> Result<(), PublishError> {
    let request = &accepted.request;
    let message = PlaceHold {
        booking_id: accepted.booking_id,
        event_id: request.event_id,
        account_id: request.account_id,
        wish: request.wish.clone(),
        accepted_at: accepted.accepted_at,
        reply_to: state.ctx.node.clone(),
        asked_at: Some(state.ctx.clock.now()),
        asked_by: Some(asked_by),
    };
    let queue = topology::booking_requests_of(request.event_id);
    let id = accepted.booking_id.0;
    state
        .ctx
        .broker
        .publish(Exchange::Commands, &queue, &message, id)
        .await
}

/// Deletes a request that this call did not publish. If that fails, or an earlier call may have
/// published it, the row stays: it is swept later, and a repeat with its key continues it.
async fn withdraw(state: &AppState, accepted: &AcceptedRequest) {
    if let Err(error) = requests::withdraw(&state.ctx.db, accepted.booking_id).await {
        tracing::warn!(%error, "failed to withdraw an unpublished booking request");
    }
}

fn label(status: u16) -> &'static str {
    match status {
        201 => "held",
        202 => "undecided",
        409 => "rejected",
        503 => "overloaded",
        _ => "failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(json: &serde_json::Value) -> Result<BookingRequest, Kind> {
        let body: NewBooking = serde_json::from_value(json.clone()).unwrap();
        body.into_request().map_err(|problem| problem.kind())
    }

    #[test]
    fn a_request_names_tickets_or_seats_within_bounds() {
        let json = |extra: &str| {
            serde_json::from_str(&format!(r#"{{"event_id":1,"user_id":7{extra}}}"#)).unwrap()
        };
        let good = [
            r#","tickets":20"#,
            r#","tickets":1,"section_id":3"#,
            r#","seats":[1,2]"#,
            r#","tickets":2,"tier":"Balcony""#,
            r#","wanted":[{"tickets":2,"section_id":3},{"tickets":1,"tier":"Child"}]"#,
        ];
        for extra in good {
            assert!(request(&json(extra)).is_ok(), "{extra}");
        }
        let bad = [
            "",
            r#","tickets":0"#,
            r#","tickets":-1"#,
            r#","tickets":21"#,
            r#","seats":[]"#,
            r#","seats":[1,1]"#,
            r#","seats":[1],"tickets":1"#,
            r#","seats":[1],"section_id":3"#,
            r#","seats":[1],"tier":"Child""#,
            r#","wanted":[]"#,
            r#","wanted":[{"tickets":0}]"#,
            r#","wanted":[{"tickets":11},{"tickets":10}]"#,
            r#","wanted":[{"tickets":1}],"tickets":1"#,
            r#","wanted":[{"tickets":1}],"section_id":3"#,
        ];
        for extra in bad {
            assert_eq!(request(&json(extra)), Err(Kind::Invalid), "{extra}");
        }
    }
}
