//! `DELETE /api/sessions`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use platform::http::Json;
use platform::problem::Problem;
use serde::Deserialize;

use super::session::session_of;
use super::store;
use crate::state::AppState;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignOut {
    refresh_token: String,
}

/// Ends the session of a refresh token. Idempotent; an access token issued before stays valid until
/// it expires.
///
/// # Errors
/// When the database fails.
pub(super) async fn sign_out(
    State(state): State<Arc<AppState>>,
    Json(body): Json<SignOut>,
) -> Result<StatusCode, Problem> {
    if let Some(session_id) = session_of(&body.refresh_token) {
        let mut conn = state.ctx.db.acquire().await?;
        store::delete_session(&mut conn, session_id).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
