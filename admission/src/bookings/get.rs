//! `GET /api/bookings/{id}`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use domain::{AccountId, BookingId};
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::problem::{Kind, Problem};

use super::view::{BookingView, One};
use crate::Desk;
use crate::store::requests;

pub(super) async fn booking(
    State(desk): State<Arc<Desk>>,
    Path(id): Path<BookingId>,
    caller: Caller,
) -> Result<Response, Problem> {
    let booking = match desk.lookups.find(id).await? {
        Some(booking) => {
            may_see(&caller, booking.account_id)?;
            BookingView::stored(booking, &caller, &desk.config)
        }
        None => {
            let request = requests::find(&desk.ctx.db, id)
                .await?
                .ok_or_else(unknown)?;
            may_see(&caller, request.order.account_id)?;
            BookingView::requested(&request)
        }
    };
    Ok(([(CACHE_CONTROL, "no-store")], Json(One { booking })).into_response())
}

/// Refuses everyone but the owner and staff.
pub(super) fn may_see(caller: &Caller, owner: AccountId) -> Result<(), Problem> {
    if caller.may_see(owner) {
        Ok(())
    } else {
        Err(Problem::new(
            Kind::Forbidden,
            "This booking is another account's.",
        ))
    }
}

pub(super) fn unknown() -> Problem {
    Problem::new(Kind::NotFound, "There is no booking with this id.")
}
