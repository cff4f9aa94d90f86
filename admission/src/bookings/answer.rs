//! HTTP responses to booking requests.

use std::time::Duration;

use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, LOCATION, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use domain::BookingId;
use domain::booking::{BookingFacts, BookingState, RejectReason};
use domain::message::Outcome;
use platform::http::Json;
use platform::problem::{Kind, Problem};

use super::view::{BookingResponse, BookingView};
use crate::store::requests::AcceptedRequest;

/// `Retry-After` of a 202: when to poll the booking.
const LOOK_AGAIN_SECONDS: &str = "1";
/// `Retry-After` of a request that was shed.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// The response to a request that the worker has decided.
pub(super) fn decided(accepted: &AcceptedRequest, outcome: Outcome) -> Response {
    match outcome {
        Outcome::Held(facts) => created(facts, BookingState::Held),
        Outcome::Confirmed(facts) => created(facts, BookingState::Confirmed),
        Outcome::Rejected(reason) => rejected(reason)
            .with("booking_id", accepted.booking_id)
            .into_response(),
        Outcome::Cancelled => ended(accepted, BookingState::Cancelled),
        Outcome::Refused(state) => ended(accepted, state),
    }
}

fn created(facts: BookingFacts, state: BookingState) -> Response {
    let location = [(LOCATION, path(facts.booking_id))];
    let booking = BookingView::decided(facts, state);
    (
        StatusCode::CREATED,
        location,
        [(CACHE_CONTROL, "no-store")],
        Json(BookingResponse { booking }),
    )
        .into_response()
}

/// The 202 sent while no outcome is known.
pub(super) fn undecided(accepted: &AcceptedRequest) -> Response {
    let headers = [
        (LOCATION, path(accepted.booking_id)),
        (RETRY_AFTER, LOOK_AGAIN_SECONDS.to_owned()),
        (CACHE_CONTROL, "no-store".to_owned()),
    ];
    let booking = BookingView::requested(accepted);
    (
        StatusCode::ACCEPTED,
        headers,
        Json(BookingResponse { booking }),
    )
        .into_response()
}

/// The problem for a rejected request.
pub(super) fn rejected(reason: RejectReason) -> Problem {
    let detail = match reason {
        RejectReason::SoldOut => "Not enough tickets are left.",
        RejectReason::NotAdjacent => "Not enough adjacent seats are free.",
        RejectReason::MixedCurrencies => "The seats are priced in several currencies.",
        RejectReason::LimitReached => "You would have more tickets than the event allows.",
        RejectReason::SaleClosed => "This sale is not taking bookings.",
        RejectReason::SeatTaken => "One of the seats is taken.",
        RejectReason::UnknownEvent => "The event, the section or a seat does not exist.",
        RejectReason::HoldUsedUp => {
            "You held tickets of this event without paying. Book again in half an hour."
        }
        RejectReason::TimedOut => "The request waited too long. Book again, with a new key.",
        RejectReason::Unknown => "The request was rejected.",
    };
    Problem::new(Kind::BookingRejected, detail).with("reason", reason)
}

/// The response to a repeat whose booking has ended since.
fn ended(accepted: &AcceptedRequest, state: BookingState) -> Response {
    Problem::new(
        Kind::Conflict,
        format!("The booking is already {}.", state.as_str()),
    )
    .with("booking_id", accepted.booking_id)
    .into_response()
}

/// A 503 for a request that was shed.
pub(super) fn overloaded(detail: &'static str) -> Problem {
    Problem::new(Kind::Overloaded, detail).retry_after(TRY_AGAIN)
}

/// URL path of a booking.
pub(super) fn path(id: BookingId) -> String {
    format!("/api/bookings/{id}")
}
