//! Stripe's customers of accounts, each with the idempotency key that creates it.

use chrono::{DateTime, Utc};
use domain::AccountId;
use sqlx::PgPool;
use uuid::Uuid;

/// A random key, not derived from the account: Stripe answers a known key with the object it made
/// then, also to another installation or after a restore.
fn new_key() -> String {
    format!("onsale-customer-{}", Uuid::new_v4())
}

/// A customer that is about to be created.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Stripe's id, if another request was faster.
    pub customer_id: Option<String>,
    /// The idempotency key of the call.
    pub idempotency_key: String,
    /// Tries with this key, this one included.
    pub tries: i32,
    /// When the key was written.
    pub asked_at: DateTime<Utc>,
}

/// The account's customer, if it has one.
pub(crate) async fn find(
    pool: &PgPool,
    account_id: AccountId,
) -> Result<Option<String>, sqlx::Error> {
    let id = sqlx::query_scalar!(
        "select customer_id from payment.customers where account_id = $1",
        account_id.0
    );
    Ok(id.fetch_optional(pool).await?.flatten())
}

/// Records a try, with the same key until the outcome is known.
pub(crate) async fn ask(
    pool: &PgPool,
    account_id: AccountId,
    now: DateTime<Utc>,
) -> Result<Asked, sqlx::Error> {
    sqlx::query_as!(
        Asked,
        "insert into payment.customers as known
             (account_id, idempotency_key, tries, asked_at, updated_at)
         values ($1, $3, 1, $2, $2)
         on conflict (account_id) do update set tries = known.tries + 1, updated_at = $2
         returning customer_id, idempotency_key, tries, asked_at",
        account_id.0,
        now,
        new_key(),
    )
    .fetch_one(pool)
    .await
}

/// Records the customer of a key; returns the one that counts, `None` when the key was replaced.
pub(crate) async fn set(
    pool: &PgPool,
    account_id: AccountId,
    key: &str,
    customer_id: &str,
    now: DateTime<Utc>,
) -> Result<Option<String>, sqlx::Error> {
    let id = sqlx::query_scalar!(
        "update payment.customers
         set customer_id = coalesce(customer_id, $3), updated_at = $4
         where account_id = $1 and idempotency_key = $2
         returning customer_id",
        account_id.0,
        key,
        customer_id,
        now,
    );
    Ok(id.fetch_optional(pool).await?.flatten())
}

/// Replaces a spent key.
pub(crate) async fn ask_anew(
    pool: &PgPool,
    account_id: AccountId,
    key: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "update payment.customers
         set attempt = attempt + 1, tries = 0, asked_at = $3, updated_at = $3,
             idempotency_key = $4
         where account_id = $1 and idempotency_key = $2 and customer_id is null",
        account_id.0,
        key,
        now,
        new_key(),
    );
    done.execute(pool).await.map(|_| ())
}

/// Removes a customer that was deleted at Stripe; the next call creates another.
pub(crate) async fn forget(
    pool: &PgPool,
    account_id: AccountId,
    customer_id: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "update payment.customers
         set customer_id = null, attempt = attempt + 1, tries = 0, asked_at = $3, updated_at = $3,
             idempotency_key = $4
         where account_id = $1 and customer_id = $2",
        account_id.0,
        customer_id,
        now,
        new_key(),
    );
    done.execute(pool).await.map(|_| ())
}
