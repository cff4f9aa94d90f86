//! Staff API for money, on the internal listener.

mod bookings;
mod events;
mod findings;

use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, post};
use domain::account::Role;
use platform::auth::Caller;
use platform::problem::Problem;

use crate::state::AppState;

/// Roles that see and move money.
const MONEY: [Role; 2] = [Role::Operator, Role::Admin];

pub(crate) fn routes(state: Arc<AppState>) -> Router {
    Router::new()
        .route("/api/bookings/{id}/timeline", get(bookings::timeline))
        .route("/api/bookings/{id}/refunds", post(bookings::refund))
        .route(
            "/api/events/{id}/refund-policy",
            get(events::policy).put(events::set_policy),
        )
        .route(
            "/api/events/{id}/refunds",
            get(events::progress).post(events::refund_again),
        )
        .route("/api/payment-findings", get(findings::list))
        .route(
            "/api/payment-findings/{kind}/{subject}",
            delete(findings::settle),
        )
        .with_state(state)
}

/// The routes that the public listener shares.
pub(crate) fn shown_to_buyers(state: Arc<AppState>) -> Router {
    Router::new()
        .route("/api/events/{id}/refund-policy", get(events::shared_policy))
        .with_state(state)
}

fn require(caller: &Caller, roles: &[Role]) -> Result<(), Problem> {
    caller.require_any(roles)
}
