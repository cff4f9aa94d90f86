//! The booking API. Admission authorises requests; the booking worker allocates the seats.

mod access;
mod answer;
mod cancel;
mod get;
mod list;
mod lookups;
mod repeat;
mod request;
mod view;
mod writer;

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post, put};
use axum::{Extension, Router};
use platform::limits::{Key, Quota};

pub(crate) use lookups::Lookups;
pub(crate) use writer::RequestWriter;

use access::Access;

use crate::state::AppState;

/// Routes of the public listener: buyers reach their own bookings.
pub(crate) fn routes(state: &Arc<AppState>) -> Router<Arc<AppState>> {
    bookings(state, Access::Owner)
}

/// Routes of the internal listener: staff reach the bookings of their events.
pub(crate) fn staff_routes(state: &Arc<AppState>) -> Router<Arc<AppState>> {
    bookings(state, Access::Staff)
}

fn bookings(state: &Arc<AppState>, access: Access) -> Router<Arc<AppState>> {
    let quota = Quota::per_minute(match access {
        Access::Owner => 20,
        Access::Staff => 120,
    });
    let limit = |name| state.ctx.limits.layer(name, quota, Key::Account);
    Router::new()
        .route(
            "/api/bookings",
            post(request::request)
                .layer(limit("booking"))
                .layer(from_fn_with_state(Arc::clone(state), record_response)),
        )
        .route("/api/bookings/{id}", get(get::booking))
        .route("/api/bookings/user/{user_id}", get(list::bookings))
        .route(
            "/api/bookings/{id}/cancel",
            put(cancel::cancel).layer(limit("cancel")),
        )
        .layer(Extension(access))
}

/// Middleware that records latency and failure of responses, which the release loop's brake watches.
async fn record_response(
    State(state): State<Arc<AppState>>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let response = next.run(request).await;
    let is_failure = response.status().is_server_error();
    state.responses.record(is_failure, started.elapsed());
    response
}
