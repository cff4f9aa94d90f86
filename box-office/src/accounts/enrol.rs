//! Accounts of a whole crowd at once.

use domain::account::Role;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use platform::service::Context;
use platform::{outbox, pg};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgConnection;

use super::command_line::CommandLineError;
use super::password;
use super::session::{Grant, SessionResponse};
use super::store::{self, NewAccount};
use crate::{OWNER, fields};

/// Accounts in one transaction.
const CHUNK: usize = 250;
/// Transactions at a time.
const CONCURRENCY: usize = 4;

/// Creates a customer with a confirmed address and a session for each of `emails`, all with the
/// same password: for a simulated crowd, whose sign-ups would be minutes of password hashing.
/// Returns the JSON of what each would get for a sign-in, in the order of `emails`.
///
/// # Errors
/// When an address is taken, or an address or the password is not valid. Some accounts may exist.
pub async fn enrol(
    ctx: &Context,
    emails: &[String],
    password: &SecretString,
) -> Result<Vec<serde_json::Value>, CommandLineError> {
    password::check_length(password)?;
    let password_hash = password::hash(password.expose_secret())?;
    let emails: Vec<String> = emails
        .iter()
        .map(|email| fields::email("email", email))
        .collect::<Result<_, _>>()?;
    let enrolled: Vec<_> = stream::iter(emails.chunks(CHUNK))
        .map(|some| {
            let password_hash = &password_hash;
            pg::run_tx(&ctx.db, "enrol", move |tx| {
                Box::pin(insert(tx, ctx, some, password_hash))
            })
        })
        .buffered(CONCURRENCY)
        .try_concat()
        .await?;
    outbox::wake(OWNER);
    Ok(enrolled)
}

async fn insert(
    conn: &mut PgConnection,
    ctx: &Context,
    emails: &[String],
    password_hash: &str,
) -> Result<Vec<serde_json::Value>, CommandLineError> {
    let now = ctx.clock.now();
    let roles = [Role::Customer];
    let mut sessions = Vec::with_capacity(emails.len());
    for email in emails {
        let account = NewAccount {
            email,
            password_hash,
            name: "",
            phone: None,
            roles: &roles,
            confirmed_at: Some(now),
        };
        let account = store::insert(conn, &account, now)
            .await?
            .ok_or_else(|| CommandLineError::EmailTaken(email.clone()))?;
        let grant = Grant::first(account.id, now);
        store::insert_session(conn, &grant, &grant.refresh_token(&ctx.keys)).await?;
        let session = grant.session(&ctx.keys, &roles, now);
        let response = serde_json::to_value(SessionResponse { session });
        sessions.push(response.expect("a session is plain data"));
    }
    Ok(sessions)
}
