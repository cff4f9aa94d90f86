//! `GET /api/events/{id}/queue`: the shared snapshot, the same bytes for everyone.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::EventId;
use platform::http::Path;
use platform::problem::Problem;

use crate::state::AppState;

/// A shared cache revalidates once a second, serves stale while it does so, and for ten minutes
/// when the origin fails.
const FOR_EVERYONE: HeaderValue =
    HeaderValue::from_static("public, max-age=1, stale-while-revalidate=5, stale-if-error=600");

pub(super) async fn snapshot(
    State(state): State<Arc<AppState>>,
    Path(event_id): Path<EventId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let rendered = state.sales.get(event_id).await?.rendered();
    let cached = [(CACHE_CONTROL, FOR_EVERYONE), (ETAG, rendered.etag.clone())];
    if has(&headers, &rendered.etag) {
        return Ok((StatusCode::NOT_MODIFIED, cached).into_response());
    }
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((cached, json, rendered.body.clone()).into_response())
}

/// Evaluates `If-None-Match`. The comparison is weak, since a compressing proxy weakens the tag.
fn has(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    let Ok(etag) = etag.to_str() else {
        return false;
    };
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}
