//! `GET /.well-known/jwks.json`: the public keys that verify passes, two during a rotation.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;
use platform::http::Json;

use crate::state::AppState;

pub(super) async fn keys(State(state): State<Arc<AppState>>) -> impl IntoResponse {
    (
        [(CACHE_CONTROL, "public, max-age=300")],
        Json(state.ctx.keys.jwks()),
    )
}
