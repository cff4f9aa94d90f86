//! `GET /api/bookings/user/{user_id}`: an account's latest bookings.

use std::cmp::Reverse;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use domain::AccountId;
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::problem::Problem;

use super::access::Access;
use super::view::{BookingView, BookingsResponse};
use crate::state::AppState;
use crate::store::{bookings, requests};

/// Maximum number returned.
const LIMIT: usize = 100;

pub(super) async fn bookings(
    State(state): State<Arc<AppState>>,
    Extension(access): Extension<Access>,
    Path(owner): Path<AccountId>,
    caller: Caller,
) -> Result<Response, Problem> {
    access.check_owner(&caller, owner)?;
    let limit = i64::try_from(LIMIT).expect("a small number");
    // Requests are read first: one that is decided between the reads appears in both, rather than
    // in neither, and the later read wins.
    let undecided = requests::undecided_of(&state.ctx.db, owner, limit).await?;
    let decided = bookings::of_account(&state.ctx.db, owner, limit).await?;
    let is_new = |id| decided.iter().all(|booking| booking.id != id);
    let mut bookings: Vec<_> = undecided
        .iter()
        .filter(|request| is_new(request.booking_id))
        .map(BookingView::requested)
        .collect();
    let stored = decided
        .into_iter()
        .map(|booking| BookingView::stored(booking, &caller, &state.config));
    bookings.extend(stored);
    let mut bookings = access.filter(&state, &caller, bookings).await?;
    bookings.sort_by_key(|booking| Reverse(booking.created_at));
    bookings.truncate(LIMIT);
    let subject = || format!("account:{owner}");
    access.audit_read(&state, &caller, subject).await?;
    Ok((
        [(CACHE_CONTROL, "no-store")],
        Json(BookingsResponse { bookings }),
    )
        .into_response())
}
