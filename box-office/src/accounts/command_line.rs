//! Account changes from the server's command line, without a session.

use std::collections::BTreeSet;

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

/// Error of a command that creates or changes an account.
#[derive(Debug, thiserror::Error)]
pub enum CommandLineError {
    /// The address or the password is not valid.
    #[error("{0}")]
    Invalid(String),
    /// The address belongs to an existing account.
    #[error("an account with the address {0} already exists")]
    EmailTaken(String),
    /// No account has the address.
    #[error("no account has the address {0}")]
    Unknown(String),
    /// The password could not be hashed.
    #[error("failed to hash the password")]
    Password(#[from] PasswordError),
    /// The database failed.
    #[error("the database transaction failed")]
    Database(#[from] sqlx::Error),
}

impl From<Problem> for CommandLineError {
    fn from(problem: Problem) -> Self {
        Self::Invalid(problem.to_string())
    }
}

/// Creates an account with the admin role and a confirmed address. Its `account.changed` message
/// stays in the outbox until a box-office process relays it.
///
/// # Errors
/// When the address is taken, or the address or password is not valid.
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

/// Adds a role to an account; a role it already has is left alone. Takes effect with the account's
/// next access token.
///
/// # Errors
/// When no account has the address.
pub async fn grant_role(
    db: &PgPool,
    clock: &SharedClock,
    email: &str,
    role: Role,
) -> Result<AccountId, CommandLineError> {
    let grant = |roles: &mut BTreeSet<Role>| {
        roles.insert(role);
    };
    change_roles(db, clock, email, &grant).await
}

/// Removes a role from an account, which keeps at least `customer`. Access tokens issued before
/// expire within 15 minutes.
///
/// # Errors
/// When no account has the address.
pub async fn revoke_role(
    db: &PgPool,
    clock: &SharedClock,
    email: &str,
    role: Role,
) -> Result<AccountId, CommandLineError> {
    let revoke = |roles: &mut BTreeSet<Role>| {
        if roles.remove(&role) && roles.is_empty() {
            roles.insert(Role::Customer);
        }
    };
    change_roles(db, clock, email, &revoke).await
}

/// A change of a set of roles. It may be applied more than once, each time to the stored set.
type RoleChange<'a> = &'a (dyn Fn(&mut BTreeSet<Role>) + Send + Sync);

/// Applies `change` to the roles of the account with this address. One that changes nothing is
/// neither stored nor recorded.
async fn change_roles(
    db: &PgPool,
    clock: &SharedClock,
    email: &str,
    change: RoleChange<'_>,
) -> Result<AccountId, CommandLineError> {
    let email = fields::email("email", email)?;
    pg::run_tx(db, "change roles", |tx| {
        Box::pin(apply(tx, clock, &email, change))
    })
    .await
}

async fn apply(
    conn: &mut PgConnection,
    clock: &SharedClock,
    email: &str,
    change: RoleChange<'_>,
) -> Result<AccountId, CommandLineError> {
    let account = store::lock_by_email(conn, email)
        .await?
        .ok_or_else(|| CommandLineError::Unknown(email.to_owned()))?;
    let before: BTreeSet<Role> = account.roles.into_iter().collect();
    let mut after = before.clone();
    change(&mut after);
    if after != before {
        let roles: Vec<Role> = after.into_iter().collect();
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
