//! `GET /api/events/{id}`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use domain::EventId;
use platform::http::Path;
use platform::problem::Problem;

use super::{EventResponse, store, unknown_event};
use crate::cached_response::CachedResponse;
use crate::state::AppState;

/// Returns one event, uncached; cancelled ones, too.
///
/// # Errors
/// `not-found` for an unknown event.
pub(super) async fn get(
    State(state): State<Arc<AppState>>,
    Path(id): Path<EventId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let answer = load(state, id).await?;
    Ok(answer.ok_or_else(unknown_event)?.respond(&headers))
}

/// Returns one event, at most a second old.
///
/// # Errors
/// `not-found` for an unknown event.
pub(super) async fn shared(
    State(state): State<Arc<AppState>>,
    Path(id): Path<EventId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let loading = || load(Arc::clone(&state), id);
    let answer = state.events.get(id, loading).await?;
    Ok(answer.ok_or_else(unknown_event)?.respond(&headers))
}

async fn load(state: Arc<AppState>, id: EventId) -> Result<Option<CachedResponse>, Problem> {
    let mut conn = state.ctx.db.acquire().await?;
    let event = store::get(&mut conn, id).await?;
    Ok(event.map(|event| CachedResponse::json(&EventResponse { event })))
}
