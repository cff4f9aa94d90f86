//! `GET /api/events/{id}`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use domain::EventId;
use platform::http::Path;
use platform::problem::Problem;

use super::{EventAnswer, store, unknown_event};
use crate::office::Office;
use crate::shared::Answer;

/// One event; also one that was cancelled.
///
/// # Errors
/// `not-found`.
pub(super) async fn get(
    State(office): State<Arc<Office>>,
    Path(id): Path<EventId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut conn = office.ctx.db.acquire().await?;
    let event = store::get(&mut conn, id).await?.ok_or_else(unknown_event)?;
    Ok(Answer::json(&EventAnswer { event }).respond(&headers))
}
