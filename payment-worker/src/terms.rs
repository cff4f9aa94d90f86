//! Preview of what a cancellation refunds, on the public listener.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, HeaderName};
use axum::routing::get;
use domain::account::Role;
use domain::{BookingId, Currency, Money};
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::problem::{Kind, Problem};
use serde::Serialize;

use crate::state::AppState;
use crate::store::payments::{self, Paid};
use crate::store::policies;

pub(crate) fn routes(state: Arc<AppState>) -> Router {
    Router::new()
        .route("/api/bookings/{id}/refund", get(preview))
        .with_state(state)
}

#[derive(Serialize)]
struct TermsResponse {
    refund: Preview,
}

/// Effect of a cancellation by the caller at this time.
#[derive(Debug, Serialize)]
struct Preview {
    /// Paid or reserved, less what was refunded.
    paid: Money,
    /// Amount that would be refunded.
    amount: Money,
    /// Amount that would be retained.
    kept: Money,
}

/// `GET /api/bookings/{id}/refund`: for the owner by the event's policy; for staff everything, as
/// their cancellations refund all.
async fn preview(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path(id): Path<BookingId>,
) -> Result<([(HeaderName, &'static str); 1], Json<TermsResponse>), Problem> {
    let unknown = || Problem::new(Kind::NotFound, "There is no such booking.");
    let booking = payments::paid(&state.db, id).await?.ok_or_else(unknown)?;
    if caller.account_id != booking.account_id {
        let event_id = booking.event_id;
        let everywhere = [Role::Operator];
        caller
            .require_event(&state.db, event_id, &everywhere)
            .await?;
    }
    let refund = of(&state, &caller, &booking).await?;
    Ok((
        [(CACHE_CONTROL, "no-store")],
        Json(TermsResponse { refund }),
    ))
}

async fn of(state: &AppState, caller: &Caller, booking: &Paid) -> Result<Preview, Problem> {
    let currency = Currency::try_from(booking.currency.as_str()).expect("the table has a check");
    let money = |minor| Money::new(minor, currency);
    // The fee is a share of all that was paid, also after a partial refund.
    let (taken, left) = (
        booking.taken_minor,
        booking.taken_minor - booking.refunded_minor,
    );
    let kept = if caller.account_id == booking.account_id {
        let policy = policies::get(&state.db, booking.event_id).await?;
        policy.fee(money(taken), state.now()).min(left)
    } else {
        0
    };
    Ok(Preview {
        paid: money(left),
        amount: money(left - kept),
        kept: money(kept),
    })
}
