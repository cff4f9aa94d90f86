//! `GET /api/accounts?email=`, for staff.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use domain::account::Role;
use platform::auth::Caller;
use platform::http::{Json, Query};
use platform::problem::Problem;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::store::{self, Account};
use crate::audit::{self, Actor};
use crate::fields;
use crate::state::AppState;

const MAX_EMAIL_CHARS: usize = 254;

#[derive(Debug, Deserialize)]
pub(super) struct Search {
    email: String,
}

#[derive(Debug, Serialize)]
struct AccountsResponse {
    accounts: Vec<Account>,
}

/// Returns up to 50 accounts whose address begins with the given text. Each search is recorded in
/// the audit log.
///
/// # Errors
/// `forbidden` unless the caller is an admin.
pub(super) async fn search(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Query(query): Query<Search>,
) -> Result<impl IntoResponse, Problem> {
    caller.require_any(&[Role::Admin])?;
    let prefix = fields::line("email", &query.email, MAX_EMAIL_CHARS)?;
    let mut conn = state.ctx.db.acquire().await?;
    let (actor, now) = (Actor::Account(caller.account_id), state.ctx.clock.now());
    let detail = json!({ "email": prefix });
    audit::put(
        &mut conn,
        actor,
        "accounts.search",
        "accounts",
        &detail,
        now,
    )
    .await?;
    let accounts = store::search(&mut conn, &prefix).await?;
    Ok((
        [(header::CACHE_CONTROL, "no-store")],
        Json(AccountsResponse { accounts }),
    ))
}
