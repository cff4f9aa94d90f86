//! `GET /api/bookings/{id}`: a booking, or the request that no worker has decided yet.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use domain::BookingId;
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::problem::Problem;

use super::access::{Access, unknown};
use super::view::{BookingResponse, BookingView};
use crate::state::AppState;
use crate::store::requests;

pub(super) async fn booking(
    State(state): State<Arc<AppState>>,
    Extension(access): Extension<Access>,
    Path(id): Path<BookingId>,
    caller: Caller,
) -> Result<Response, Problem> {
    let booking = match state.lookups.find(id).await? {
        Some(booking) => {
            let (event_id, owner) = (booking.event_id, booking.account_id);
            access.check(&state, &caller, event_id, owner).await?;
            BookingView::stored(booking, &caller, &state.config)
        }
        None => {
            let accepted = requests::find(&state.ctx.db, id)
                .await?
                .ok_or_else(unknown)?;
            let (event_id, owner) = (accepted.request.event_id, accepted.request.account_id);
            access.check(&state, &caller, event_id, owner).await?;
            BookingView::requested(&accepted)
        }
    };
    let subject = || format!("booking:{id}");
    access.audit_read(&state, &caller, subject).await?;
    Ok((
        [(CACHE_CONTROL, "no-store")],
        Json(BookingResponse { booking }),
    )
        .into_response())
}
