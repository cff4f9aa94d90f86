//! The cards that buyers keep, on the public listener. A card is known by Stripe alone: it is
//! listed, chosen and removed only among those of the caller's own customer.
//!
//! Whoever keeps no card costs nothing here: a customer is created when an account first asks to
//! keep one.

mod choose;
mod customer;
mod saved;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{delete, get, put};
use platform::limits::{Key, Quota};
use platform::problem::{Kind, Problem};
use platform::service::Context;

use crate::recorder::Recorder;
use crate::store::breaker;
use crate::stripe::Failure;
use crate::worker::Worker;

/// Each request is one or more calls to Stripe, which are few a second.
const PER_ACCOUNT: Quota = Quota {
    burst: 30,
    per: Duration::from_secs(60),
};

/// What the routes have at hand.
struct Desk {
    worker: Arc<Worker>,
    recorder: Arc<Recorder>,
}

/// The routes for buyers.
pub(crate) fn routes(ctx: &Context, worker: Arc<Worker>, recorder: Arc<Recorder>) -> Router {
    let limit = ctx.limits.layer("saved-cards", PER_ACCOUNT, Key::Account);
    Router::new()
        .route("/api/saved-cards", get(saved::list))
        .route("/api/saved-cards/{id}", delete(saved::remove))
        .route("/api/bookings/{id}/card", put(choose::choose))
        .route_layer(limit)
        .with_state(Arc::new(Desk { worker, recorder }))
}

/// Refuses at once while Stripe seems to be down, instead of letting a buyer wait for it.
async fn require_stripe(worker: &Worker) -> Result<(), Problem> {
    if breaker::is_open(&worker.db).await? {
        return Err(unreachable());
    }
    Ok(())
}

/// What a buyer is told when Stripe gave no certain answer. Everything here may be repeated.
fn unsettled(failure: &Failure) -> Problem {
    let error = failure as &dyn std::error::Error;
    tracing::warn!(error, "Stripe gave no certain answer about a card");
    unreachable()
}

fn unreachable() -> Problem {
    Problem::new(
        Kind::Overloaded,
        "Stripe does not answer at the moment. Try again, or pay with a card that is not saved.",
    )
}
