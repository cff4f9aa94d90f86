//! SQL of messages that need a person's decision: failed or uncertain.

use chrono::{DateTime, Utc};
use domain::{AccountId, BookingId, EventId};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// A failed or uncertain message as returned to staff, without the reader's address.
#[derive(Debug, Clone, Serialize)]
pub struct Stuck {
    /// Id to resend it by.
    pub id: Uuid,
    /// The booking it is about.
    pub booking_id: BookingId,
    /// The event it is about.
    pub event_id: EventId,
    /// The reader.
    pub account_id: AccountId,
    /// Its kind, such as `confirmed`.
    pub kind: String,
    /// `email` or `sms`.
    pub channel: String,
    /// `failed` or `uncertain`.
    pub state: String,
    /// Delivery attempts so far.
    pub tries: i32,
    /// The server's answer, or the reason why there is none.
    pub error: Option<String>,
    /// Time at which the notification was written.
    pub created_at: DateTime<Utc>,
}

/// Returns up to `limit` stuck messages, newest first, optionally of one state and kind.
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

/// Requeues a stuck message and returns its previous state; `None` if it is not stuck.
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

/// Returns true if the message exists, in any state.
pub(crate) async fn exists(db: &PgPool, id: Uuid) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from notifier.notifications where id = $1) as "exists!""#,
        id,
    )
    .fetch_one(db)
    .await
}
