//! `DELETE /api/sales/{event_id}/passes/{account_id}`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use domain::message::PassRevoked;
use domain::{AccountId, EventId};
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::problem::Problem;
use platform::refusal::Refusal;
use platform::{outbox, pg};
use serde_json::json;
use sqlx::PgConnection;

use super::{require_operator, store, unknown_sale};
use crate::OWNER;
use crate::audit::{self, Actor};
use crate::state::AppState;

/// Revokes an account's pass in a sale: adds an audit entry and publishes `pass.revoked` in one
/// transaction. Answers 202, since admission acts on the message later.
///
/// # Errors
/// `forbidden` unless the caller is an operator or admin, and `not-found`.
pub(super) async fn revoke(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path((event_id, account_id)): Path<(EventId, AccountId)>,
) -> Result<impl IntoResponse, Problem> {
    require_operator(&caller)?;
    let revoked = PassRevoked {
        event_id,
        account_id,
        at: state.ctx.clock.now(),
    };
    let actor = Actor::Account(caller.account_id);
    pg::run_tx(&state.ctx.db, "revoke pass", |tx| {
        Box::pin(record(tx, &revoked, actor))
    })
    .await?;
    outbox::wake(OWNER);
    Ok((StatusCode::ACCEPTED, Json(json!({ "message": "success" }))))
}

async fn record(
    conn: &mut PgConnection,
    revoked: &PassRevoked,
    actor: Actor,
) -> Result<(), Refusal> {
    let sale = store::get(conn, revoked.event_id).await?;
    let sale = sale.ok_or_else(unknown_sale)?;
    let subject = format!("sale:{}", sale.event_id);
    let detail = json!({ "account_id": revoked.account_id });
    audit::put(conn, actor, "pass.revoke", &subject, &detail, revoked.at).await?;
    outbox::put(conn, OWNER, revoked).await?;
    Ok(())
}
