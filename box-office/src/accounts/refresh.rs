//! `POST /api/sessions/refresh`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::account::Role;
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use platform::tokens::KeyRing;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use super::replayed;
use super::session::{self, Grant, SessionResponse, hash_of, session_of};
use super::store::{self, LiveSession};
use crate::state::AppState;
use crate::write::Posted;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refresh {
    refresh_token: String,
}

/// Outcome of presenting a refresh token. Ending the session on reuse must be committed, so it is
/// not an error of the transaction.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RefreshOutcome {
    Renewed(Grant, Vec<Role>),
    Unknown,
    Reused,
}

/// Rotates a refresh token and issues a new access token. A token that was rotated within
/// [`session::REPEAT_LIFE`] returns the newest tokens again (another tab, a lost response); one
/// rotated earlier is treated as stolen and ends the session.
///
/// # Errors
/// `signed-out` when the token is unknown, expired or reused.
pub(super) async fn refresh(
    State(state): State<Arc<AppState>>,
    Posted { body, repeat }: Posted<Refresh>,
) -> Result<Response, Problem> {
    let session_id = session_of(&body.refresh_token).ok_or_else(signed_out)?;
    let (caller, token) = (session_id.to_string(), body.refresh_token);
    let done = state
        .write("refresh", &caller, &repeat, &|tx| {
            Box::pin(renew(tx, &state, session_id, &token))
        })
        .await?;
    let renewed = done.try_map(|outcome| match outcome {
        RefreshOutcome::Renewed(grant, roles) => Ok((grant, roles)),
        RefreshOutcome::Unknown => Err(signed_out()),
        RefreshOutcome::Reused => {
            tracing::warn!(session.id = %session_id, "refresh token reused, session ended");
            Err(signed_out())
        }
    })?;
    let (grant, roles) = replayed::unless_moved_on(&state, renewed).await?;
    let (keys, now) = (&state.ctx.keys, state.ctx.clock.now());
    let answer = grant.map(|grant| SessionResponse {
        session: grant.session(keys, &roles, now),
    });
    Ok(answer.respond(StatusCode::CREATED))
}

async fn renew(
    conn: &mut PgConnection,
    state: &AppState,
    session_id: Uuid,
    token: &str,
) -> Result<RefreshOutcome, Refusal> {
    let now = state.ctx.clock.now();
    let Some(session) = store::lock_session(conn, session_id, now).await? else {
        return Ok(RefreshOutcome::Unknown);
    };
    let is_newest = session.refresh_hash == hash_of(token);
    if !is_newest && !session.was_just_replaced(&hash_of(token), now) {
        store::delete_session(conn, session_id).await?;
        return Ok(RefreshOutcome::Reused);
    }
    let Some(account) = store::get(conn, session.account_id).await? else {
        return Ok(RefreshOutcome::Unknown);
    };
    if !is_newest && let Some(newest) = session.newest(session_id, &state.ctx.keys) {
        return Ok(RefreshOutcome::Renewed(newest, account.roles));
    }
    let grant = Grant {
        session_id,
        generation: session.generation + 1,
        account_id: session.account_id,
        at: now,
    };
    store::rotate_session(conn, &grant, &grant.refresh_token(&state.ctx.keys)).await?;
    Ok(RefreshOutcome::Renewed(grant, account.roles))
}

impl LiveSession {
    /// Returns true if `hash` is that of the previous token and it was rotated within
    /// [`session::REPEAT_LIFE`].
    fn was_just_replaced(&self, hash: &[u8; 32], now: DateTime<Utc>) -> bool {
        let is_previous = self.previous_hash.as_deref() == Some(hash.as_slice());
        is_previous
            && self
                .rotated_at
                .is_some_and(|at| now - at <= session::REPEAT_LIFE)
    }

    /// Reconstructs the grant that replaced the previous token; `None` if its token was derived
    /// from a secret this node does not have.
    fn newest(&self, session_id: Uuid, keys: &KeyRing) -> Option<Grant> {
        let grant = Grant {
            session_id,
            generation: self.generation,
            account_id: self.account_id,
            at: self.rotated_at?,
        };
        (hash_of(&grant.refresh_token(keys)).as_slice() == self.refresh_hash).then_some(grant)
    }
}

fn signed_out() -> Problem {
    Problem::new(
        Kind::SignedOut,
        "The refresh token is unknown, expired or was already used. Sign in again.",
    )
}
