//! Saved cards, on the public listener. Cards are stored by Stripe alone; only those of the
//! caller's own customer are listed, chosen and removed.
//!
//! A customer is created when an account first saves a card, so a buyer who saves none costs no
//! call.

mod choose;
mod customer;
mod saved;

use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, put};
use platform::limits::{Key, Quota};
use platform::problem::{Kind, Problem};
use platform::service::Context;

use crate::recorder::Recorder;
use crate::state::AppState;
use crate::store::breaker;
use crate::stripe::Failure;

/// Each request makes one or more calls to Stripe, which are rate-limited.
const PER_ACCOUNT: Quota = Quota::per_minute(30);

pub(crate) fn routes(ctx: &Context, state: Arc<AppState>, recorder: Arc<Recorder>) -> Router {
    let limit = ctx.limits.layer("saved-cards", PER_ACCOUNT, Key::Account);
    let chosen = Router::new()
        .route("/api/bookings/{id}/card", put(choose::choose))
        .with_state((Arc::clone(&state), recorder));
    let saved = Router::new()
        .route("/api/saved-cards", get(saved::list))
        .route("/api/saved-cards/{id}", delete(saved::remove))
        .with_state(state);
    saved.merge(chosen).route_layer(limit)
}

/// Fails fast while the circuit breaker is open.
async fn require_stripe(state: &AppState) -> Result<(), Problem> {
    if breaker::is_open(&state.db).await? {
        return Err(unreachable());
    }
    Ok(())
}

/// The problem for a call without a certain answer. Every request here may be repeated.
fn unsettled(failure: &Failure) -> Problem {
    let error = failure as &dyn std::error::Error;
    tracing::warn!(
        error,
        "a call to Stripe about a card has no certain outcome"
    );
    unreachable()
}

fn unreachable() -> Problem {
    Problem::new(
        Kind::Overloaded,
        "Stripe is not answering. Try again, or pay with a card that is not saved.",
    )
}
