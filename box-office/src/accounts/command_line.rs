//! What an administrator of the server does to accounts without signing in.

use domain::AccountId;
use domain::account::Role;
use domain::clock::SharedClock;
use platform::pg;
use platform::problem::Problem;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;
use sqlx::{PgConnection, PgPool};

use super::password::{self, PasswordError};
use super::store::{self, NewAccount};
use crate::audit::{self, Actor};
use crate::fields;

/// Why an account could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum CommandLineError {
    /// The address or the password is out of its bounds.
    #[error("{0}")]
    Invalid(String),
    /// An account with the address exists.
    #[error("an account with the address {0} exists already")]
    EmailTaken(String),
    /// No account has the address.
    #[error("no account has the address {0}")]
    Unknown(String),
    /// The password could not be hashed.
    #[error("the password could not be hashed")]
    Password(#[from] PasswordError),
    /// The database failed.
    #[error("the database refused the change")]
    Database(#[from] sqlx::Error),
}

impl From<Problem> for CommandLineError {
    fn from(problem: Problem) -> Self {
        Self::Invalid(problem.to_string())
    }
}

/// Makes the account of an administrator. Its message to the other services waits in the outbox
/// until a box-office runs.
///
/// # Errors
/// When the address is taken, or a value is out of its bounds.
pub async fn bootstrap_admin(
    db: &PgPool,
    clock: &SharedClock,
    email: &str,
    password: &SecretString,
) -> Result<AccountId, CommandLineError> {
    let email = fields::email("email", email)?;
    password::check_length(password)?;
    let password_hash = password::hash(password.expose_secret())?;
    let roles = [Role::Customer, Role::Admin];
    let account = NewAccount {
        email: &email,
        password_hash: &password_hash,
        name: "",
        phone: None,
        roles: &roles,
        confirmed_at: Some(clock.now()),
    };
    pg::run_tx(db, "bootstrap admin", |tx| {
        Box::pin(insert(tx, clock, &account))
    })
    .await
}

async fn insert(
    conn: &mut PgConnection,
    clock: &SharedClock,
    account: &NewAccount<'_>,
) -> Result<AccountId, CommandLineError> {
    let inserted = store::insert(conn, account, clock.now())
        .await?
        .ok_or_else(|| CommandLineError::EmailTaken(account.email.to_owned()))?;
    record(conn, clock, inserted.id, account.roles).await?;
    Ok(inserted.id)
}

/// Adds a role to an account. It takes effect with the account's next access token.
///
/// # Errors
/// When no account has the address.
pub async fn grant_role(
    db: &PgPool,
    clock: &SharedClock,
    email: &str,
    role: Role,
) -> Result<AccountId, CommandLineError> {
    let email = fields::email("email", email)?;
    pg::run_tx(db, "grant role", |tx| {
        Box::pin(add_role(tx, clock, &email, role))
    })
    .await
}

async fn add_role(
    conn: &mut PgConnection,
    clock: &SharedClock,
    email: &str,
    role: Role,
) -> Result<AccountId, CommandLineError> {
    let account = store::lock_by_email(conn, email)
        .await?
        .ok_or_else(|| CommandLineError::Unknown(email.to_owned()))?;
    if !account.roles.contains(&role) {
        let mut roles = account.roles;
        roles.push(role);
        roles.sort_unstable();
        store::set_roles(conn, account.id, &roles, clock.now()).await?;
        record(conn, clock, account.id, &roles).await?;
    }
    Ok(account.id)
}

/// Takes a role from an account, which stays a customer. Access tokens that were issued before
/// end within 15 minutes.
///
/// # Errors
/// When no account has the address.
pub async fn revoke_role(
    db: &PgPool,
    clock: &SharedClock,
    email: &str,
    role: Role,
) -> Result<AccountId, CommandLineError> {
    let email = fields::email("email", email)?;
    pg::run_tx(db, "revoke role", |tx| {
        Box::pin(remove_role(tx, clock, &email, role))
    })
    .await
}

async fn remove_role(
    conn: &mut PgConnection,
    clock: &SharedClock,
    email: &str,
    role: Role,
) -> Result<AccountId, CommandLineError> {
    let account = store::lock_by_email(conn, email)
        .await?
        .ok_or_else(|| CommandLineError::Unknown(email.to_owned()))?;
    if account.roles.contains(&role) {
        let mut roles = account.roles;
        roles.retain(|own| *own != role);
        if roles.is_empty() {
            roles.push(Role::Customer);
        }
        store::set_roles(conn, account.id, &roles, clock.now()).await?;
        record(conn, clock, account.id, &roles).await?;
    }
    Ok(account.id)
}

async fn record(
    conn: &mut PgConnection,
    clock: &SharedClock,
    id: AccountId,
    roles: &[Role],
) -> Result<(), sqlx::Error> {
    let (subject, detail) = (format!("account:{id}"), json!({ "roles": roles }));
    audit::put(
        conn,
        Actor::CommandLine,
        "account.roles",
        &subject,
        &detail,
        clock.now(),
    )
    .await
}
