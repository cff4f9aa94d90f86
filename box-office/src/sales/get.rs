//! `GET /api/sales/{event_id}`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use domain::EventId;
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::problem::Problem;

use super::{live, require_operator};
use crate::state::AppState;

/// Returns a sale's settings and live figures, uncached.
///
/// # Errors
/// `forbidden` unless the caller is an operator or admin, and `not-found`.
pub(super) async fn get(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path(id): Path<EventId>,
) -> Result<impl IntoResponse, Problem> {
    require_operator(&caller)?;
    let live = live::read(&state.ctx, id).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(live)))
}
