//! `GET /api/events/{id}/queue/me`: where the holder of a queue token stands.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use domain::queue::{Eta, PlaceState, poll_after_ms};
use domain::sale::SaleState;
use domain::{EventId, Place};
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::problem::Problem;
use serde::Serialize;

use super::{holder, standing};
use crate::Room;

#[derive(Serialize)]
struct Answer<'a> {
    place: Place,
    ahead: i64,
    state: PlaceState,
    sale: SaleState,
    eta_seconds: Option<Eta>,
    poll_after_ms: u32,
    message: &'a str,
}

pub(super) async fn me(
    State(room): State<Arc<Room>>,
    Path(event_id): Path<EventId>,
    caller: Caller,
    // Whole, since an extractor of the headers copies them.
    request: Request,
) -> Result<Response, Problem> {
    let place = holder(&room, event_id, &caller, request.headers())?.place;
    drop(request);
    let view = room.views.get(event_id).await?;
    let state = standing(&room, event_id, &view, place).await?;
    let is_waiting = state == PlaceState::Waiting;
    let ahead = if is_waiting { view.ahead_of(place) } else { 0 };
    let eta_seconds = if is_waiting {
        view.snapshot.eta(ahead)
    } else {
        None
    };
    let answer = Answer {
        place,
        ahead,
        state,
        sale: view.snapshot.state,
        eta_seconds,
        poll_after_ms: poll_after_ms(state, eta_seconds, rand::random()),
        message: &view.snapshot.message,
    };
    Ok(([(CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}
