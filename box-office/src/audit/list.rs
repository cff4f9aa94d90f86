//! `GET /api/audit-log`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use domain::account::Role;
use platform::auth::Caller;
use platform::http::{Json, Query};
use platform::problem::Problem;
use serde::{Deserialize, Serialize};

use super::store::{self, AuditEntry};
use crate::cursor::Cursor;
use crate::fields;
use crate::state::AppState;

const PAGE: usize = 50;
const MAX_SUBJECT_CHARS: usize = 100;

#[derive(Debug, Deserialize)]
pub(super) struct AuditParams {
    subject: Option<String>,
    cursor: Option<String>,
}

#[derive(Debug, Serialize)]
struct AuditLogResponse {
    entries: Vec<AuditEntry>,
    next_cursor: Option<String>,
}

/// Returns entries of the audit log, newest first, in pages of 50.
///
/// # Errors
/// `forbidden` unless the caller is an operator or admin.
pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Query(wanted): Query<AuditParams>,
) -> Result<impl IntoResponse, Problem> {
    caller.require_any(&[Role::Operator, Role::Admin])?;
    let subject = wanted
        .subject
        .map(|subject| fields::line("subject", &subject, MAX_SUBJECT_CHARS))
        .transpose()?;
    let before = wanted
        .cursor
        .map(|cursor| Cursor::decode(&cursor))
        .transpose()?;
    let Cursor([before]) = before.unwrap_or(Cursor([i64::MAX]));
    let limit = i64::try_from(PAGE).expect("a page is small");
    let entries = store::list(&state.ctx.db, subject.as_deref(), before, limit).await?;
    let last = entries.last().filter(|_| entries.len() == PAGE);
    let next_cursor = last.map(|last| Cursor([last.id]).encode());
    Ok((
        [(header::CACHE_CONTROL, "no-store")],
        Json(AuditLogResponse {
            entries,
            next_cursor,
        }),
    ))
}
