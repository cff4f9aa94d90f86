//! `GET /api/accounts/me`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use platform::auth::Caller;
use platform::http::Json;
use platform::problem::{Kind, Problem};
use serde::Serialize;

use super::store::{self, Account};
use crate::state::AppState;

/// `{"account": …}`.
#[derive(Debug, Serialize, serde::Deserialize)]
pub(super) struct AccountResponse {
    pub(super) account: Account,
}

/// Returns the caller's account.
///
/// # Errors
/// `signed-out` without a valid access token, or when the account was deleted since.
pub(super) async fn me(
    State(state): State<Arc<AppState>>,
    caller: Caller,
) -> Result<impl IntoResponse, Problem> {
    let mut conn = state.ctx.db.acquire().await?;
    let account = store::get(&mut conn, caller.account_id)
        .await?
        .ok_or_else(|| Problem::new(Kind::SignedOut, "This account no longer exists."))?;
    Ok((
        [(header::CACHE_CONTROL, "no-store")],
        Json(AccountResponse { account }),
    ))
}
