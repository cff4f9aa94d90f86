//! Messages that wait for a person: refused for good, or perhaps sent.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// A message as staff see it. The address is not shown: it is the account's.
#[derive(Debug, Clone, Serialize)]
pub struct Stuck {
    /// Names it, for sending it again.
    pub id: Uuid,
    /// The booking it is about.
    pub booking_id: Uuid,
    /// The event.
    pub event_id: i64,
    /// Who reads it.
    pub account_id: i64,
    /// What it says, such as `confirmed`.
    pub kind: String,
    /// `email` or `sms`.
    pub channel: String,
    /// `failed` or `uncertain`.
    pub state: String,
    /// How often it was tried.
    pub tries: i32,
    /// What the server said, or why nobody knows.
    pub error: Option<String>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
}

/// Up to `limit` stuck messages, newest first; of one state and one kind where they are given.
pub(crate) async fn list(
    db: &PgPool,
    state: Option<&str>,
    kind: Option<&str>,
    limit: i64,
) -> Result<Vec<Stuck>, sqlx::Error> {
    sqlx::query_as!(
        Stuck,
        r#"select id, booking_id, event_id, account_id, kind, channel, state, tries,
                  last_error as error, created_at
           from notifier.notifications
           where state in ('failed', 'uncertain') and state = coalesce($1, state)
             and kind = coalesce($2, kind)
           order by created_at desc, id limit $3"#,
        state,
        kind,
        limit,
    )
    .fetch_all(db)
    .await
}

/// Makes a stuck message due again and returns it as it was; `None` when it is not stuck.
pub(crate) async fn again(
    conn: &mut PgConnection,
    id: Uuid,
    now: DateTime<Utc>,
) -> Result<Option<Stuck>, sqlx::Error> {
    sqlx::query_as!(
        Stuck,
        r#"with stuck as (
               select * from notifier.notifications
               where id = $1 and state in ('failed', 'uncertain') for update),
           again as (
               update notifier.notifications n
               set state = 'waiting', next_try_at = $2, again_at = $2
               from stuck where n.id = stuck.id)
           select id, booking_id, event_id, account_id, kind, channel, state, tries,
                  last_error as error, created_at
           from stuck"#,
        id,
        now,
    )
    .fetch_optional(conn)
    .await
}

/// Whether there is such a message.
pub(crate) async fn exists(db: &PgPool, id: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from notifier.notifications where id = $1) as "exists!""#,
        id,
    )
    .fetch_one(db)
    .await
}
