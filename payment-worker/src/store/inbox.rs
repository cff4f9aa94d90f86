//! Verified webhooks, stored before Stripe gets its 2xx.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

/// A webhook that waits to be applied.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// Stripe's id of the event, `evt_…`.
    pub event_id: String,
    /// Stripe's type of the event.
    pub kind: String,
    /// The whole event.
    pub payload: Value,
    /// How often it was begun, this time included.
    pub tries: i32,
}

/// Stores a webhook; `false` when it was delivered before.
pub(crate) async fn insert(
    pool: &PgPool,
    event_id: &str,
    kind: &str,
    payload: &Value,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "insert into payment.webhook_inbox (event_id, type, payload, received_at, next_try_at)
         values ($1, $2, $3, $4, $4)
         on conflict (event_id) do nothing",
        event_id,
        kind,
        payload,
        now,
    );
    Ok(done.execute(pool).await?.rows_affected() == 1)
}

/// Takes up to `limit` webhooks for the length of `lease`.
pub(crate) async fn claim_due(
    pool: &PgPool,
    limit: i64,
    lease: Duration,
    now: DateTime<Utc>,
) -> Result<Vec<Stored>, sqlx::Error> {
    sqlx::query_as!(
        Stored,
        "update payment.webhook_inbox set tries = tries + 1, next_try_at = $3
         where event_id in (
             select event_id from payment.webhook_inbox
             where processed_at is null and next_try_at <= $2
             order by next_try_at limit $1
             for update skip locked)
         returning event_id, type as kind, payload, tries",
        limit,
        now,
        now + lease,
    )
    .fetch_all(pool)
    .await
}

/// Marks a webhook as applied; `false` when it was already.
pub(crate) async fn finish(
    conn: &mut PgConnection,
    event_id: &str,
    note: &str,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update payment.webhook_inbox set processed_at = $2, note = $3
         where event_id = $1 and processed_at is null",
        event_id,
        now,
        note,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// Puts a webhook off until `due`.
pub(crate) async fn put_off(
    pool: &PgPool,
    event_id: &str,
    note: &str,
    due: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "update payment.webhook_inbox set next_try_at = $2, note = $3
         where event_id = $1 and processed_at is null",
        event_id,
        due,
        note,
    );
    done.execute(pool).await.map(|_| ())
}
