//! `POST /api/sessions`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use domain::AccountId;
use domain::account::Role;
use platform::problem::{Kind, Problem};
use secrecy::SecretString;
use serde::Deserialize;
use sqlx::PgConnection;

use super::session::{Grant, SessionAnswer};
use super::{password, store};
use crate::fields;
use crate::office::Office;
use crate::write::{Posted, WriteError};

#[derive(Debug, Deserialize)]
pub(super) struct SignIn {
    email: String,
    password: SecretString,
}

/// Begins a session.
///
/// # Errors
/// `wrong-credentials`, and `overloaded` when too many sign in at once.
pub(super) async fn sign_in(
    State(office): State<Arc<Office>>,
    Posted { body, repeat }: Posted<SignIn>,
) -> Result<Response, Problem> {
    // What can't be an address or a password needs no look-up, and is no less wrong.
    let email = fields::email("email", &body.email).map_err(|_| wrong())?;
    password::check_length(&body.password).map_err(|_| wrong())?;
    let known = store::credentials(&office.ctx.db, &email).await?;
    let (account_id, stored) = known
        .map(|known| (known.account_id, known.password_hash))
        .unzip();
    let is_right = office.passwords.verify(body.password, stored).await?;
    let account_id = account_id.filter(|_| is_right).ok_or_else(wrong)?;

    let caller = email.to_lowercase();
    let done = office
        .write("sign in", &caller, &repeat, &|tx| {
            Box::pin(begin(tx, &office, account_id))
        })
        .await?;
    let keys = &office.ctx.keys;
    let answer = done.map(|(grant, roles)| SessionAnswer {
        session: grant.session(keys, &roles),
    });
    Ok(answer.respond(StatusCode::CREATED))
}

async fn begin(
    conn: &mut PgConnection,
    office: &Office,
    account_id: AccountId,
) -> Result<(Grant, Vec<Role>), WriteError> {
    let account = store::get(conn, account_id).await?.ok_or_else(wrong)?;
    let grant = Grant::first(account_id, office.ctx.clock.now());
    store::insert_session(conn, &grant, &grant.refresh_token(&office.ctx.keys)).await?;
    Ok((grant, account.roles))
}

fn wrong() -> Problem {
    Problem::new(
        Kind::WrongCredentials,
        "Check the address and the password.",
    )
}
