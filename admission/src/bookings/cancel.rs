//! `PUT /api/bookings/{id}/cancel`: cancels a booking.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::header::{LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::booking::{BookingState, CancelRefusal};
use domain::message::{CancelBooking, Outcome};
use domain::{AccountId, BookingId, EventId};
use platform::amqp::{Exchange, PublishError};
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::idempotency;
use platform::problem::{Kind, Problem};
use platform::topology;
use serde_json::json;
use uuid::Uuid;

use super::access::Access;
use super::access::unknown;
use super::answer;
use crate::outcomes::CommandKind;
use crate::state::AppState;
use crate::store::requests;

pub(super) async fn cancel(
    State(state): State<Arc<AppState>>,
    Extension(access): Extension<Access>,
    Path(id): Path<BookingId>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    // A repeat does no more than the first, so the key is only held against its pattern.
    idempotency::key_of(&headers)?;
    let (owner, event_id, booking_state) = find(&state, id).await?;
    access.check(&state, &caller, event_id, owner).await?;
    // A final state never changes; any other is for the worker to decide.
    if booking_state.is_final() {
        return settled(booking_state, None);
    }
    let busy =
        || answer::overloaded("The booking is already being cancelled; check again in a moment.");
    let expected = state
        .outcomes
        .expect(id, CommandKind::Cancel)
        .ok_or_else(busy)?;
    publish(&state, id, event_id, caller.account_id).await?;
    let reply = expected.within(state.config.outcome_wait).await;
    match reply.map(|reply| (reply.outcome, reply.why)) {
        Some((Outcome::Cancelled, _)) => settled(BookingState::Cancelled, None),
        Some((Outcome::Refused(booking_state), why)) => settled(booking_state, why),
        // The outcome of another request; this one's is still to come.
        Some((Outcome::Held(_) | Outcome::Confirmed(_) | Outcome::Rejected(_), _)) | None => {
            let headers = [(LOCATION, answer::path(id)), (RETRY_AFTER, "1".to_owned())];
            let body = Json(json!({ "message": "accepted" }));
            Ok((StatusCode::ACCEPTED, headers, body).into_response())
        }
    }
}

async fn find(
    state: &AppState,
    id: BookingId,
) -> Result<(AccountId, EventId, BookingState), Problem> {
    if let Some(booking) = state.lookups.find(id).await? {
        return Ok((booking.account_id, booking.event_id, booking.state));
    }
    let request = requests::find(&state.ctx.db, id)
        .await?
        .ok_or_else(unknown)?
        .request;
    Ok((
        request.account_id,
        request.event_id,
        BookingState::Requested,
    ))
}

async fn publish(
    state: &AppState,
    booking_id: BookingId,
    event_id: EventId,
    asked_by: AccountId,
) -> Result<(), Problem> {
    let reply_to = state.ctx.node.clone();
    let message = CancelBooking {
        booking_id,
        event_id,
        asked_by,
        reply_to,
    };
    let queue = topology::booking_requests_of(event_id);
    let broker = &state.ctx.broker;
    match broker
        .publish(Exchange::Commands, &queue, &message, Uuid::new_v4())
        .await
    {
        Ok(()) => Ok(()),
        Err(PublishError::Full) => Err(answer::overloaded(
            "Too many requests are waiting; try again in a moment.",
        )),
        Err(error) => Err(Problem::overloaded(&error)),
    }
}

/// The response for a booking that is in `state` after the cancellation was decided. `why` is the
/// reason for refusing to cancel a confirmed one.
fn settled(state: BookingState, why: Option<CancelRefusal>) -> Result<Response, Problem> {
    let detail = match (state, why) {
        (BookingState::Cancelled, _) => {
            return Ok(Json(json!({ "message": "success" })).into_response());
        }
        (BookingState::Requested, _) => {
            "The booking has not been decided yet; try again in a moment.".to_owned()
        }
        (_, Some(CancelRefusal::CheckedIn)) => {
            "One of its tickets has been checked in, so the booking can't be cancelled.".to_owned()
        }
        (_, Some(CancelRefusal::Transferred)) => {
            "One of its tickets was transferred, so only staff can cancel the booking.".to_owned()
        }
        (_, Some(CancelRefusal::EventBegun)) => {
            "The event has begun, so only staff can cancel the booking.".to_owned()
        }
        (other, None) => format!("A booking that is {} can't be cancelled.", other.as_str()),
    };
    let problem = Problem::new(Kind::Conflict, detail);
    Err(match why {
        Some(why) => problem.with("reason", why),
        None => problem,
    })
}
