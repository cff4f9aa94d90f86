//! `GET /api/events/{id}/availability`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use domain::EventId;
use platform::http::Path;
use platform::problem::Problem;
use serde::Serialize;

use super::stock::{self, SectionStock};
use super::unknown_event;
use crate::cached_response::CachedResponse;
use crate::state::AppState;

#[derive(Debug, Serialize)]
struct Availability {
    available: i64,
    sections: Vec<SectionStock>,
}

/// Returns the available stock, at most a second old.
///
/// # Errors
/// `not-found` for an unknown event.
pub(super) async fn availability(
    State(state): State<Arc<AppState>>,
    Path(id): Path<EventId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let loading = || load(Arc::clone(&state), id);
    let answer = state.availability.get(id, loading).await?;
    Ok(answer.ok_or_else(unknown_event)?.respond(&headers))
}

async fn load(state: Arc<AppState>, id: EventId) -> Result<Option<CachedResponse>, Problem> {
    let sections = stock::by_section(&state.ctx.db, id).await?;
    // Every event has a section.
    if sections.is_empty() {
        return Ok(None);
    }
    let available = sections
        .iter()
        .map(|section| i64::from(section.available))
        .sum();
    Ok(Some(
        CachedResponse::json(&Availability {
            available,
            sections,
        })
        .packed(),
    ))
}
