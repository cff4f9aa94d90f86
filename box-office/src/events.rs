//! Events: search, seat maps, availability, and the staff API that changes them.

mod availability;
mod create;
mod delete;
mod draft;
mod get;
mod list;
mod replace;
mod seats;
pub(crate) mod stock;
pub(crate) mod store;
mod when;

use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodRouter, get as on_get, post, put};
use domain::account::Role;
use domain::event::Event;
use platform::auth::Caller;
use platform::problem::{Kind, Problem};
use platform::service::Routes;
use serde::{Deserialize, Serialize};

use crate::state::AppState;

/// Event routes: reads on both listeners, writes on the internal one.
pub(crate) fn routes(state: &Arc<AppState>) -> Routes {
    let writes = Router::new()
        .route("/api/events", post(create::create))
        .route(
            "/api/events/{id}",
            put(replace::replace).delete(delete::delete),
        )
        .route_layer(state.staff_limit.clone());
    Routes {
        public: reads(on_get(get::shared)).with_state(Arc::clone(state)),
        quick: crowd_reads().with_state(Arc::clone(state)),
        internal: reads(on_get(get::get))
            .merge(crowd_reads())
            .merge(writes)
            .with_state(Arc::clone(state)),
        ..Routes::default()
    }
}

fn reads(event: MethodRouter<Arc<AppState>>) -> Router<Arc<AppState>> {
    Router::new()
        .route("/api/events", on_get(list::list))
        .route("/api/events/{id}", event)
}

/// Routes polled by all buyers during a sale. Their responses are cached and compressed once per
/// load, not per request.
fn crowd_reads() -> Router<Arc<AppState>> {
    Router::new()
        .route(
            "/api/events/{id}/availability",
            on_get(availability::availability),
        )
        .route("/api/events/{id}/seats", on_get(seats::seats))
}

/// `{"event": …}`.
#[derive(Debug, Serialize, Deserialize)]
struct EventResponse {
    event: Event,
}

/// Checks that the caller may create events.
fn require_organiser(caller: &Caller) -> Result<(), Problem> {
    caller.require_any(&[Role::Organiser, Role::Admin])
}

fn unknown_event() -> Problem {
    Problem::new(Kind::NotFound, "There is no event with this id.")
}
