//! `POST /api/sessions/refresh`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::account::Role;
use platform::problem::{Kind, Problem};
use platform::tokens::KeyRing;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use super::session::{self, Grant, SessionAnswer, hash_of, session_of};
use super::store::{self, LiveSession};
use crate::office::Office;
use crate::write::{Posted, WriteError};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refresh {
    refresh_token: String,
}

/// What became of the token. Ending the session is a change to keep, so it is no error here.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Renewed(Grant, Vec<Role>),
    Unknown,
    Reused,
}

/// Replaces a refresh token by a new one, with a new access token. One that was replaced within
/// [`session::REPEAT_LIFE`] returns the newest tokens again; one that was replaced earlier was
/// copied by somebody, and ends the session for all who hold its tokens.
///
/// # Errors
/// `signed-out`.
pub(super) async fn refresh(
    State(office): State<Arc<Office>>,
    Posted { body, repeat }: Posted<Refresh>,
) -> Result<Response, Problem> {
    let session_id = session_of(&body.refresh_token).ok_or_else(signed_out)?;
    let (caller, token) = (session_id.to_string(), body.refresh_token);
    let done = office
        .write("refresh", &caller, &repeat, &|tx| {
            Box::pin(renew(tx, &office, session_id, &token))
        })
        .await?;
    let renewed = done.try_map(|outcome| match outcome {
        Outcome::Renewed(grant, roles) => Ok((grant, roles)),
        Outcome::Unknown => Err(signed_out()),
        Outcome::Reused => {
            tracing::warn!(session.id = %session_id, "an old refresh token was used; session ended");
            Err(signed_out())
        }
    })?;
    let (grant, roles) = session::unless_moved_on(&office, renewed).await?;
    let (keys, now) = (&office.ctx.keys, office.ctx.clock.now());
    let answer = grant.map(|grant| SessionAnswer {
        session: grant.session(keys, &roles, now),
    });
    Ok(answer.respond(StatusCode::CREATED))
}

async fn renew(
    conn: &mut PgConnection,
    office: &Office,
    session_id: Uuid,
    token: &str,
) -> Result<Outcome, WriteError> {
    let now = office.ctx.clock.now();
    let Some(session) = store::lock_session(conn, session_id, now).await? else {
        return Ok(Outcome::Unknown);
    };
    let is_newest = session.refresh_hash == hash_of(token);
    if !is_newest && !session.was_just_replaced(&hash_of(token), now) {
        store::delete_session(conn, session_id).await?;
        return Ok(Outcome::Reused);
    }
    let Some(account) = store::get(conn, session.account_id).await? else {
        return Ok(Outcome::Unknown);
    };
    if !is_newest && let Some(newest) = session.newest(session_id, &office.ctx.keys) {
        return Ok(Outcome::Renewed(newest, account.roles));
    }
    let grant = Grant {
        session_id,
        generation: session.generation + 1,
        account_id: session.account_id,
        at: now,
    };
    store::rotate_session(conn, &grant, &grant.refresh_token(&office.ctx.keys)).await?;
    Ok(Outcome::Renewed(grant, account.roles))
}

impl LiveSession {
    /// Whether the token with this hash is the one before the newest, and was replaced a moment
    /// ago.
    fn was_just_replaced(&self, hash: &[u8; 32], now: DateTime<Utc>) -> bool {
        let is_previous = self.previous_hash.as_deref() == Some(hash.as_slice());
        is_previous
            && self
                .rotated_at
                .is_some_and(|at| now - at <= session::REPEAT_LIFE)
    }

    /// The grant that replaced the previous token; `None` when its token was derived from another
    /// secret than ours, and can't be made again.
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
        "The refresh token is not known, has expired, or was replaced some time ago. Sign in again.",
    )
}
