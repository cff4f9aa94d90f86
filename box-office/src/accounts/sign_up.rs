//! `POST /api/accounts`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use domain::account::Role;
use platform::problem::{Kind, Problem};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::password;
use super::session::{Grant, Session};
use super::store::{self, Account, NewAccount};
use crate::fields;
use crate::office::Office;
use crate::write::{Posted, WriteError};

const MAX_NAME_CHARS: usize = 200;

#[derive(Debug, Deserialize)]
pub(super) struct SignUp {
    email: String,
    password: SecretString,
    #[serde(default)]
    name: String,
    phone: Option<String>,
}

/// What is kept for a repeat.
#[derive(Debug, Serialize, Deserialize)]
struct SignedUp {
    account: Account,
    grant: Grant,
}

#[derive(Debug, Serialize)]
struct Answer {
    account: Account,
    session: Session,
}

/// Makes an account and signs it in.
///
/// # Errors
/// `invalid`, `email-taken`, `overloaded`.
pub(super) async fn sign_up(
    State(office): State<Arc<Office>>,
    Posted { body, repeat }: Posted<SignUp>,
) -> Result<Response, Problem> {
    let email = fields::email("email", &body.email)?;
    let name = fields::line("name", &body.name, MAX_NAME_CHARS)?;
    let phone = body
        .phone
        .as_deref()
        .map(|phone| fields::phone("phone", phone))
        .transpose()?;
    password::check_length(&body.password)?;
    let password_hash = office.passwords.hash(body.password).await?;
    let account = NewAccount {
        email: &email,
        password_hash: &password_hash,
        name: &name,
        phone: phone.as_deref(),
        roles: &[Role::Customer],
    };
    let caller = email.to_lowercase();
    let done = office
        .write("sign up", &caller, &repeat, &|tx| {
            Box::pin(insert(tx, &office, &account))
        })
        .await?;
    let answer = done.map(|SignedUp { account, grant }| Answer {
        session: grant.session(&office.ctx.keys, &account.roles),
        account,
    });
    Ok(answer.respond(StatusCode::CREATED))
}

async fn insert(
    conn: &mut PgConnection,
    office: &Office,
    account: &NewAccount<'_>,
) -> Result<SignedUp, WriteError> {
    let now = office.ctx.clock.now();
    let account = store::insert(conn, account, now).await?.ok_or_else(taken)?;
    let grant = Grant::first(account.id, now);
    store::insert_session(conn, &grant, &grant.refresh_token(&office.ctx.keys)).await?;
    Ok(SignedUp { account, grant })
}

fn taken() -> Problem {
    Problem::new(
        Kind::EmailTaken,
        "Sign in with this address, or use another one.",
    )
}
