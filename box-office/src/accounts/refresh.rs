//! `POST /api/sessions/refresh`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use domain::account::Role;
use platform::problem::{Kind, Problem};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use super::session::{Grant, SessionAnswer, hash_of, session_of};
use super::store;
use crate::office::Office;
use crate::write::{Posted, WriteError};

#[derive(Debug, Deserialize)]
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

/// Replaces a refresh token by a new one, with a new access token. One that was replaced before
/// was copied by somebody: it ends the session for all who hold its tokens.
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
    let keys = &office.ctx.keys;
    let answer = done.try_map(|outcome| match outcome {
        Outcome::Renewed(grant, roles) => {
            Ok(SessionAnswer { session: grant.session(keys, &roles) })
        }
        Outcome::Unknown => Err(signed_out()),
        Outcome::Reused => {
            tracing::warn!(session.id = %session_id, "a refresh token was used twice; session ended");
            Err(signed_out())
        }
    })?;
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
    if session.refresh_hash != hash_of(token) {
        store::delete_session(conn, session_id).await?;
        return Ok(Outcome::Reused);
    }
    let Some(account) = store::get(conn, session.account_id).await? else {
        return Ok(Outcome::Unknown);
    };
    let grant = Grant {
        session_id,
        generation: session.generation + 1,
        account_id: session.account_id,
        at: now,
    };
    store::rotate_session(conn, &grant, &grant.refresh_token(&office.ctx.keys)).await?;
    Ok(Outcome::Renewed(grant, account.roles))
}

fn signed_out() -> Problem {
    Problem::new(
        Kind::SignedOut,
        "The refresh token is not known, has expired, or was used before. Sign in again.",
    )
}
