//! `POST /api/tickets/{code}/check-in`, for staff at the door.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use chrono::{DateTime, Utc};
use domain::account::Role;
use domain::{BookingId, EventId, SeatId};
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::problem::{Kind, Problem};
use platform::service::Context;
use serde::Serialize;

use crate::store::tickets::{self, AtTheDoor};

/// For the internal listener.
pub(crate) fn routes(ctx: &Context) -> Router {
    Router::new()
        .route("/api/tickets/{code}/check-in", post(check_in))
        .with_state(Arc::new(ctx.clone()))
}

#[derive(Serialize)]
struct Answer {
    ticket: View,
}

#[derive(Serialize)]
struct View {
    event_id: EventId,
    booking_id: BookingId,
    seat_id: SeatId,
    state: String,
    checked_in_at: Option<DateTime<Utc>>,
}

/// Lets the holder of a ticket in, once.
///
/// # Errors
/// `forbidden` unless the caller belongs to staff; `not-found`; `conflict` when the ticket was used
/// before, with the time, transferred, or cancelled.
async fn check_in(
    State(ctx): State<Arc<Context>>,
    caller: Caller,
    Path(code): Path<String>,
) -> Result<Json<Answer>, Problem> {
    caller.require_any(&[Role::Operator, Role::Organiser, Role::Admin])?;
    let now = ctx.clock.now();
    let mut conn = ctx.db.acquire().await?;
    if let Some(ticket) = tickets::check_in(&mut conn, &code, caller.account_id, now).await? {
        return Ok(Json(Answer {
            ticket: ticket.into(),
        }));
    }
    let ticket = tickets::find(&mut conn, &code).await?;
    let ticket = ticket.ok_or_else(|| Problem::new(Kind::NotFound, "There is no such ticket."))?;
    Err(match ticket.checked_in_at {
        Some(at) if ticket.state == "checked_in" => Problem::new(
            Kind::Conflict,
            "Somebody was let in with this ticket before.",
        )
        .with("checked_in_at", at),
        _ => match ticket.transferred_at {
            Some(at) => Problem::new(
                Kind::Conflict,
                "This ticket was transferred; its new holder has another code.",
            )
            .with("transferred_at", at),
            None => Problem::new(Kind::Conflict, "This ticket was cancelled."),
        },
    })
}

impl From<AtTheDoor> for View {
    fn from(ticket: AtTheDoor) -> Self {
        Self {
            event_id: EventId(ticket.event_id),
            booking_id: BookingId(ticket.booking_id),
            seat_id: SeatId(ticket.seat_id),
            state: ticket.state,
            checked_in_at: ticket.checked_in_at,
        }
    }
}
