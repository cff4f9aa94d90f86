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
use super::view::{BookingView, One};
use crate::Desk;
use crate::store::requests;

pub(super) async fn booking(
    State(desk): State<Arc<Desk>>,
    Extension(access): Extension<Access>,
    Path(id): Path<BookingId>,
    caller: Caller,
) -> Result<Response, Problem> {
    let booking = match desk.lookups.find(id).await? {
        Some(booking) => {
            let (event_id, owner) = (booking.event_id, booking.account_id);
            access.check(&desk, &caller, event_id, owner).await?;
            BookingView::stored(booking, &caller, &desk.config)
        }
        None => {
            let request = requests::find(&desk.ctx.db, id)
                .await?
                .ok_or_else(unknown)?;
            let (event_id, owner) = (request.order.event_id, request.order.account_id);
            access.check(&desk, &caller, event_id, owner).await?;
            BookingView::requested(&request)
        }
    };
    let subject = || format!("booking:{id}");
    access.note_reading(&desk, &caller, subject).await?;
    Ok(([(CACHE_CONTROL, "no-store")], Json(One { booking })).into_response())
}
