//! Staff API for messages that did not arrive: list them, and resend one.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use chrono::{DateTime, Utc};
use domain::AccountId;
use domain::account::Role;
use domain::message::AuditNoted;
use platform::auth::Caller;
use platform::http::{Json, Path, Query};
use platform::outbox;
use platform::pg::run_tx;
use platform::problem::{Kind, Problem};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use crate::OWNER;
use crate::state::AppState;
use crate::store::mails::{self, Stuck};

/// Roles that may list and resend messages.
const SUPPORT: [Role; 2] = [Role::Operator, Role::Admin];
/// Most messages in one response.
const MAX_LISTED: i64 = 500;

/// The routes of the internal listener.
pub(crate) fn routes(state: Arc<AppState>) -> Router {
    Router::new()
        .route("/api/mails", get(list))
        .route("/api/mails/{id}/again", post(again))
        .with_state(state)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StuckParams {
    state: Option<StuckState>,
    kind: Option<String>,
}

/// States that need a person's decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StuckState {
    /// Refused permanently.
    Failed,
    /// Handed over without a recorded answer.
    Uncertain,
}

impl StuckState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Uncertain => "uncertain",
        }
    }
}

#[derive(Serialize)]
struct Mails {
    mails: Vec<Stuck>,
}

/// `GET /api/mails`: returns failed and uncertain messages, newest first.
async fn list(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Query(wanted): Query<StuckParams>,
) -> Result<Json<Mails>, Problem> {
    caller.require_any(&SUPPORT)?;
    let mails = stuck(&state.db, wanted.state, wanted.kind.as_deref()).await?;
    Ok(Json(Mails { mails }))
}

/// `POST /api/mails/{id}/again`: requeues a failed or uncertain message.
async fn again(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, Problem> {
    caller.require_any(&SUPPORT)?;
    if send_again(&state.db, id, caller.account_id, state.now()).await? {
        state.wake_senders();
        outbox::wake(OWNER);
        return Ok(StatusCode::ACCEPTED);
    }
    if mails::exists(&state.db, id).await? {
        return Err(Problem::new(
            Kind::Conflict,
            "Only a failed or uncertain mail can be sent again.",
        ));
    }
    Err(Problem::new(
        Kind::NotFound,
        "There is no mail with this id.",
    ))
}

/// Returns up to 500 failed and uncertain messages, newest first, optionally of one state and kind.
///
/// # Errors
/// When the database fails.
pub async fn stuck(
    db: &PgPool,
    state: Option<StuckState>,
    kind: Option<&str>,
) -> Result<Vec<Stuck>, sqlx::Error> {
    let state = state.map(StuckState::as_str);
    mails::list(db, state, kind, MAX_LISTED).await
}

/// Requeues a failed or uncertain message, and publishes an audit note naming `actor`.
/// Returns `false` if the message is in another state or does not exist.
///
/// # Errors
/// When the database fails.
pub async fn send_again(
    db: &PgPool,
    id: Uuid,
    actor: AccountId,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    run_tx(db, "notifier send again", |tx| {
        Box::pin(async move {
            let Some(stuck) = mails::again(tx, id, now).await? else {
                return Ok::<_, sqlx::Error>(false);
            };
            let subject = format!("booking:{}", stuck.booking_id);
            let detail = json!({
                "mail": id, "kind": stuck.kind, "channel": stuck.channel,
                "state": stuck.state, "error": stuck.error,
            });
            let note = AuditNoted::new(actor, "mail.again", subject, detail, now);
            outbox::put(tx, OWNER, &note).await?;
            Ok(true)
        })
    })
    .await
}
