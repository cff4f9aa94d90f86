//! The inbox: verified webhooks, stored before they are acknowledged.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

/// A webhook to be applied.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    /// Stripe's id of the event, `evt_…`.
    pub event_id: String,
    /// Stripe's type of the event.
    pub kind: String,
    /// The stored fields of the event.
    pub payload: Value,
    /// Tries, this one included.
    pub tries: i32,
}

/// A verified webhook to be stored.
#[derive(Debug, Clone)]
pub(crate) struct New {
    /// Stripe's id of the event, `evt_…`.
    pub event_id: String,
    /// Stripe's type of the event.
    pub kind: String,
    /// The stored fields of the event, as JSON.
    pub payload: String,
    /// The note, if this transaction applies it.
    pub applied: Option<&'static str>,
    /// Before it the webhook is not applied; `None` for at once.
    pub due: Option<DateTime<Utc>>,
}

/// Stores webhooks; returns those that are new.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    webhooks: &[New],
    now: DateTime<Utc>,
) -> Result<HashSet<String>, sqlx::Error> {
    let ids: Vec<_> = webhooks.iter().map(|new| new.event_id.clone()).collect();
    let kinds: Vec<_> = webhooks.iter().map(|new| new.kind.clone()).collect();
    let payloads: Vec<_> = webhooks.iter().map(|new| new.payload.clone()).collect();
    let notes: Vec<_> = webhooks
        .iter()
        .map(|new| new.applied.map(str::to_owned))
        .collect();
    let dues: Vec<_> = webhooks.iter().map(|new| new.due).collect();
    let stored = sqlx::query_scalar!(
        "insert into payment.webhook_inbox
             (event_id, type, payload, received_at, next_try_at, processed_at, note)
         select event_id, type, payload::jsonb, $5, coalesce(due, $5),
                case when note is not null then $5::timestamptz end, note
         from unnest($1::text[], $2::text[], $3::text[], $4::text[], $6::timestamptz[])
              as new (event_id, type, payload, note, due)
         order by event_id
         on conflict (event_id) do nothing
         returning event_id",
        &ids,
        &kinds,
        &payloads,
        notes.as_slice() as &[Option<String>],
        now,
        dues.as_slice() as &[Option<DateTime<Utc>>],
    )
    .fetch_all(conn)
    .await?;
    Ok(stored.into_iter().collect())
}

/// Claims up to `limit` due webhooks for `lease`.
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

/// Marks a webhook as applied; `false` when it was marked before.
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

/// Reschedules a webhook.
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
