//! What staff do about messages that did not arrive: see them, and have them sent again.

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
use crate::shared::Shared;
use crate::store::mails::{self, Stuck};

/// Who sees to messages.
const SUPPORT: [Role; 2] = [Role::Operator, Role::Admin];
/// The most messages in one answer.
const MAX_LISTED: i64 = 500;

/// The routes of the internal listener.
pub(crate) fn routes(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/api/mails", get(list))
        .route("/api/mails/{id}/again", post(again))
        .with_state(shared)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    state: Option<StuckState>,
    kind: Option<String>,
}

/// The states that wait for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StuckState {
    /// Refused for good.
    Failed,
    /// Handed over, without an answer that was recorded.
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

/// `GET /api/mails`: those that failed or may not have arrived, newest first.
async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Query(wanted): Query<Wanted>,
) -> Result<Json<Mails>, Problem> {
    caller.require_any(&SUPPORT)?;
    let mails = stuck(&shared.db, wanted.state, wanted.kind.as_deref()).await?;
    Ok(Json(Mails { mails }))
}

/// `POST /api/mails/{id}/again`: it is sent once more.
async fn again(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Path(id): Path<Uuid>,
) -> Result<StatusCode, Problem> {
    caller.require_any(&SUPPORT)?;
    if send_again(&shared.db, id, caller.account_id, shared.now()).await? {
        shared.wake_senders();
        outbox::wake(OWNER);
        return Ok(StatusCode::ACCEPTED);
    }
    if mails::exists(&shared.db, id).await? {
        return Err(Problem::new(
            Kind::Conflict,
            "Only a mail that failed or is uncertain can be sent again.",
        ));
    }
    Err(Problem::new(Kind::NotFound, "There is no such mail."))
}

/// Messages that failed or may not have arrived, newest first, 500 at most; of one state and one
/// kind where they are given.
///
/// # Errors
/// What the database says.
pub async fn stuck(
    db: &PgPool,
    state: Option<StuckState>,
    kind: Option<&str>,
) -> Result<Vec<Stuck>, sqlx::Error> {
    let state = state.map(StuckState::as_str);
    mails::list(db, state, kind, MAX_LISTED).await
}

/// Has a message that failed or is uncertain sent once more, and notes who did. `false` when it is
/// neither.
///
/// # Errors
/// What the database says.
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
            let note = AuditNoted {
                id: Uuid::new_v4(),
                at: now,
                actor,
                action: "mail.again".to_owned(),
                subject: format!("booking:{}", stuck.booking_id),
                detail: json!({
                    "mail": id, "kind": stuck.kind, "channel": stuck.channel,
                    "state": stuck.state, "error": stuck.error,
                }),
            };
            outbox::put(tx, OWNER, &note).await?;
            Ok(true)
        })
    })
    .await
}
