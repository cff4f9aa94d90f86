//! SQL of accounts and sessions.

use chrono::{DateTime, Utc};
use domain::AccountId;
use domain::account::Role;
use domain::message::{AccountChanged, ConfirmationAsked, ContactChannel};
use platform::outbox;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::session::{Grant, REFRESH_LIFE, hash_of};
use crate::OWNER;

/// Most accounts returned by a search.
const SEARCH_LIMIT: i64 = 50;

/// An account as returned to its owner and to staff.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) id: AccountId,
    pub(crate) email: String,
    pub(crate) name: String,
    pub(crate) phone: Option<String>,
    pub(crate) roles: Vec<Role>,
    /// True once a code sent to the address was submitted.
    #[serde(default)]
    pub(crate) email_confirmed: bool,
    #[serde(default)]
    pub(crate) phone_confirmed: bool,
    #[serde(skip_serializing, default)]
    version: i64,
}

/// Validated values of a new account.
#[derive(Debug)]
pub(crate) struct NewAccount<'a> {
    pub(crate) email: &'a str,
    pub(crate) password_hash: &'a str,
    pub(crate) name: &'a str,
    pub(crate) phone: Option<&'a str>,
    pub(crate) roles: &'a [Role],
    /// Set when its address and phone count as confirmed without a code.
    pub(crate) confirmed_at: Option<DateTime<Utc>>,
}

struct AccountRow {
    id: i64,
    email: String,
    name: String,
    phone: Option<String>,
    roles: Vec<String>,
    version: i64,
    email_confirmed: bool,
    phone_confirmed: bool,
}

impl TryFrom<AccountRow> for Account {
    type Error = sqlx::Error;

    fn try_from(row: AccountRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: AccountId(row.id),
            email: row.email,
            name: row.name,
            phone: row.phone,
            roles: roles_of(&row.roles)?,
            version: row.version,
            email_confirmed: row.email_confirmed,
            phone_confirmed: row.phone_confirmed,
        })
    }
}

fn roles_of(words: &[String]) -> Result<Vec<Role>, sqlx::Error> {
    let role = |word: &String| {
        Role::parse(word).ok_or_else(|| sqlx::Error::Decode(format!("no role {word:?}").into()))
    };
    words.iter().map(role).collect()
}

fn words_of(roles: &[Role]) -> Vec<String> {
    roles.iter().map(|role| role.as_str().to_owned()).collect()
}

/// Inserts an account and publishes it; `None` if its address is taken.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    account: &NewAccount<'_>,
    now: DateTime<Utc>,
) -> Result<Option<Account>, sqlx::Error> {
    let row = sqlx::query_as!(
        AccountRow,
        "insert into box_office.accounts
             (email, password_hash, name, phone, roles, created_at, updated_at,
              email_confirmed_at, phone_confirmed_at)
         values ($1, $2, $3, $4, $5, $6, $6, $7::timestamptz,
                 case when $4::text is not null then $7::timestamptz end)
         on conflict (lower(email)) do nothing
         returning id, email, name, phone, roles, version,
                email_confirmed_at is not null as \"email_confirmed!\",
                phone_confirmed_at is not null as \"phone_confirmed!\"",
        account.email,
        account.password_hash,
        account.name,
        account.phone,
        &words_of(account.roles),
        now,
        account.confirmed_at,
    )
    .fetch_optional(&mut *conn)
    .await?;
    emit(conn, row).await
}

/// Replaces an account's roles and publishes it; `None` if the account does not exist.
pub(crate) async fn set_roles(
    conn: &mut PgConnection,
    id: AccountId,
    roles: &[Role],
    now: DateTime<Utc>,
) -> Result<Option<Account>, sqlx::Error> {
    let row = sqlx::query_as!(
        AccountRow,
        "update box_office.accounts set roles = $2, version = version + 1, updated_at = $3
         where id = $1
         returning id, email, name, phone, roles, version,
                email_confirmed_at is not null as \"email_confirmed!\",
                phone_confirmed_at is not null as \"phone_confirmed!\"",
        id.0,
        &words_of(roles),
        now,
    )
    .fetch_optional(&mut *conn)
    .await?;
    emit(conn, row).await
}

/// Marks an account's address or phone as confirmed, deletes its code and publishes the account;
/// `None` if the account does not exist.
pub(crate) async fn set_confirmed(
    conn: &mut PgConnection,
    id: AccountId,
    channel: ContactChannel,
    now: DateTime<Utc>,
) -> Result<Option<Account>, sqlx::Error> {
    let row = sqlx::query_as!(
        AccountRow,
        "update box_office.accounts
         set email_confirmed_at = case when $2 = 'email' then $3 else email_confirmed_at end,
             phone_confirmed_at = case when $2 = 'sms' then $3 else phone_confirmed_at end,
             version = version + 1, updated_at = $3
         where id = $1
         returning id, email, name, phone, roles, version,
                email_confirmed_at is not null as \"email_confirmed!\",
                phone_confirmed_at is not null as \"phone_confirmed!\"",
        id.0,
        channel.as_str(),
        now,
    )
    .fetch_optional(&mut *conn)
    .await?;
    sqlx::query!(
        "delete from box_office.confirmations where account_id = $1 and channel = $2",
        id.0,
        channel.as_str(),
    )
    .execute(&mut *conn)
    .await?;
    emit(conn, row).await
}

/// The current code of an address or phone.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) nonce: Uuid,
    /// Wrong submissions of this code.
    pub(crate) tries: i32,
    pub(crate) asked_at: DateTime<Utc>,
    /// Codes requested since `since`.
    pub(crate) asked: i32,
    pub(crate) since: DateTime<Utc>,
}

/// Returns the current code of an account's address or phone.
pub(crate) async fn confirmation(
    conn: &mut PgConnection,
    account_id: AccountId,
    channel: ContactChannel,
) -> Result<Option<Sent>, sqlx::Error> {
    sqlx::query_as!(
        Sent,
        "select nonce, tries, asked_at, asked, since from box_office.confirmations
         where account_id = $1 and channel = $2",
        account_id.0,
        channel.as_str(),
    )
    .fetch_optional(conn)
    .await
}

/// Replaces the code of an address or phone. The count of codes restarts with the first one
/// requested after `day_ago`.
pub(crate) async fn put_confirmation(
    conn: &mut PgConnection,
    asked: &ConfirmationAsked,
    now: DateTime<Utc>,
    day_ago: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into box_office.confirmations as sent (account_id, channel, nonce, asked_at, since)
         values ($1, $2, $3, $4, $4)
         on conflict (account_id, channel) do update
         set nonce = excluded.nonce, tries = 0, asked_at = excluded.asked_at,
             asked = case when sent.since <= $5 then 1 else sent.asked + 1 end,
             since = case when sent.since <= $5 then excluded.since else sent.since end",
        asked.account_id.0,
        asked.channel.as_str(),
        asked.nonce,
        now,
        day_ago,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Increments the wrong submissions of the current code.
pub(crate) async fn count_wrong_code(
    conn: &mut PgConnection,
    account_id: AccountId,
    channel: ContactChannel,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update box_office.confirmations set tries = tries + 1
         where account_id = $1 and channel = $2",
        account_id.0,
        channel.as_str(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Puts `account.changed` into the outbox.
async fn emit(
    conn: &mut PgConnection,
    row: Option<AccountRow>,
) -> Result<Option<Account>, sqlx::Error> {
    let Some(row) = row else { return Ok(None) };
    let account = Account::try_from(row)?;
    let message = AccountChanged {
        account_id: account.id,
        version: account.version,
        email: account.email.clone(),
        name: account.name.clone(),
        phone: account.phone.clone(),
    };
    outbox::put(conn, OWNER, &message).await?;
    Ok(Some(account))
}

/// Returns the account with this id.
pub(crate) async fn get(
    conn: &mut PgConnection,
    id: AccountId,
) -> Result<Option<Account>, sqlx::Error> {
    let row = sqlx::query_as!(
        AccountRow,
        "select id, email, name, phone, roles, version,
                email_confirmed_at is not null as \"email_confirmed!\",
                phone_confirmed_at is not null as \"phone_confirmed!\"
         from box_office.accounts where id = $1",
        id.0,
    )
    .fetch_optional(conn)
    .await?;
    row.map(Account::try_from).transpose()
}

/// Returns the account with this id, locked for update.
pub(crate) async fn lock(
    conn: &mut PgConnection,
    id: AccountId,
) -> Result<Option<Account>, sqlx::Error> {
    let row = sqlx::query_as!(
        AccountRow,
        "select id, email, name, phone, roles, version,
                email_confirmed_at is not null as \"email_confirmed!\",
                phone_confirmed_at is not null as \"phone_confirmed!\"
         from box_office.accounts
         where id = $1 for update",
        id.0,
    )
    .fetch_optional(conn)
    .await?;
    row.map(Account::try_from).transpose()
}

/// Returns the account with this address, without regard to case, locked for update.
pub(crate) async fn lock_by_email(
    conn: &mut PgConnection,
    email: &str,
) -> Result<Option<Account>, sqlx::Error> {
    let row = sqlx::query_as!(
        AccountRow,
        "select id, email, name, phone, roles, version,
                email_confirmed_at is not null as \"email_confirmed!\",
                phone_confirmed_at is not null as \"phone_confirmed!\"
         from box_office.accounts
         where lower(email) = lower($1) for update",
        email,
    )
    .fetch_optional(conn)
    .await?;
    row.map(Account::try_from).transpose()
}

/// Returns accounts whose address begins with `prefix`, without regard to case, ordered by address.
pub(crate) async fn search(
    conn: &mut PgConnection,
    prefix: &str,
) -> Result<Vec<Account>, sqlx::Error> {
    let pattern = format!("{}%", escape_like(&prefix.to_lowercase()));
    let rows = sqlx::query_as!(
        AccountRow,
        "select id, email, name, phone, roles, version,
                email_confirmed_at is not null as \"email_confirmed!\",
                phone_confirmed_at is not null as \"phone_confirmed!\"
         from box_office.accounts
         where lower(email) like $1
         order by lower(email) limit $2",
        pattern,
        SEARCH_LIMIT,
    )
    .fetch_all(conn)
    .await?;
    rows.into_iter().map(Account::try_from).collect()
}

fn escape_like(text: &str) -> String {
    text.replace('\\', r"\\")
        .replace('%', r"\%")
        .replace('_', r"\_")
}

/// Stored credentials of an account.
#[derive(Debug)]
pub(crate) struct Credentials {
    pub(crate) account_id: AccountId,
    pub(crate) password_hash: String,
    /// True if the account has signed in from the caller's network before.
    pub(crate) is_known_place: bool,
}

/// Returns the credentials of the account with this address, for a caller at `place`.
pub(crate) async fn credentials(
    pool: &PgPool,
    email: &str,
    place: &[u8],
) -> Result<Option<Credentials>, sqlx::Error> {
    let row = sqlx::query!(
        "select id, password_hash,
                exists (select from box_office.places
                        where account_id = id and place = $2) as \"is_known_place!\"
         from box_office.accounts where lower(email) = lower($1)",
        email,
        place,
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Credentials {
        account_id: AccountId(row.id),
        password_hash: row.password_hash,
        is_known_place: row.is_known_place,
    }))
}

/// Records a sign-in of an account from `place`.
pub(crate) async fn know_place(
    conn: &mut PgConnection,
    account_id: AccountId,
    place: &[u8],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into box_office.places (account_id, place, seen_at) values ($1, $2, $3)
         on conflict (account_id, place) do update set seen_at = excluded.seen_at",
        account_id.0,
        place,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Inserts a session with its first refresh token.
pub(crate) async fn insert_session(
    conn: &mut PgConnection,
    grant: &Grant,
    refresh_token: &str,
) -> Result<(), sqlx::Error> {
    let hash = hash_of(refresh_token);
    sqlx::query!(
        "insert into box_office.sessions
             (id, account_id, generation, refresh_hash, created_at, expires_at)
         values ($1, $2, $3, $4, $5, $6)",
        grant.session_id,
        grant.account_id.0,
        grant.generation,
        hash.as_slice(),
        grant.at,
        grant.at + REFRESH_LIFE,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// A session that has not expired.
#[derive(Debug)]
pub(crate) struct LiveSession {
    pub(crate) account_id: AccountId,
    pub(crate) generation: i32,
    pub(crate) refresh_hash: Vec<u8>,
    pub(crate) previous_hash: Option<Vec<u8>>,
    pub(crate) rotated_at: Option<DateTime<Utc>>,
}

/// Returns the session with this id, locked for update; `None` if it has expired.
pub(crate) async fn lock_session(
    conn: &mut PgConnection,
    id: Uuid,
    now: DateTime<Utc>,
) -> Result<Option<LiveSession>, sqlx::Error> {
    let row = sqlx::query!(
        "select account_id, generation, refresh_hash, previous_hash, rotated_at
         from box_office.sessions
         where id = $1 and expires_at > $2
         for update",
        id,
        now,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| LiveSession {
        account_id: AccountId(row.account_id),
        generation: row.generation,
        refresh_hash: row.refresh_hash,
        previous_hash: row.previous_hash,
        rotated_at: row.rotated_at,
    }))
}

/// Returns true if `hash` is that of the current refresh token of an unexpired session.
pub(crate) async fn is_newest(
    pool: &PgPool,
    id: Uuid,
    hash: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        "select exists (select from box_office.sessions
                        where id = $1 and refresh_hash = $2 and expires_at > $3) as \"is_newest!\"",
        id,
        hash.as_slice(),
        now,
    )
    .fetch_one(pool)
    .await
}

/// Replaces a session's refresh token by that of `grant`, and keeps the previous one's hash.
pub(crate) async fn rotate_session(
    conn: &mut PgConnection,
    grant: &Grant,
    refresh_token: &str,
) -> Result<(), sqlx::Error> {
    let hash = hash_of(refresh_token);
    sqlx::query!(
        "update box_office.sessions
         set generation = $2, refresh_hash = $3, expires_at = $4,
             previous_hash = refresh_hash, rotated_at = $5
         where id = $1",
        grant.session_id,
        grant.generation,
        hash.as_slice(),
        grant.at + REFRESH_LIFE,
        grant.at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes a session; a no-op if it does not exist.
pub(crate) async fn delete_session(conn: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from box_office.sessions where id = $1", id)
        .execute(conn)
        .await?;
    Ok(())
}

/// Deletes up to `limit` expired sessions, and returns how many.
pub(crate) async fn delete_ended_sessions(
    pool: &PgPool,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let deleted = sqlx::query!(
        "delete from box_office.sessions where id in (
             select id from box_office.sessions where expires_at <= $1
             limit $2 for update skip locked)",
        now,
        limit,
    )
    .execute(pool)
    .await?;
    Ok(deleted.rows_affected())
}
