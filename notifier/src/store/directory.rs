//! Accounts and events, as box-office tells them.

use chrono::{DateTime, Utc};
use domain::event::{Event, EventState};
use domain::message::AccountChanged;
use domain::{AccountId, EventId};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

/// Keeps an account, unless a later version was seen.
pub(crate) async fn put_account(
    pool: &PgPool,
    account: &AccountChanged,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into notifier.accounts as known (account_id, version, email, name, phone)
         values ($1, $2, $3, $4, $5)
         on conflict (account_id) do update
         set version = excluded.version, email = excluded.email, name = excluded.name,
             phone = excluded.phone
         where known.version < excluded.version",
        account.account_id.0,
        account.version,
        account.email,
        account.name,
        account.phone,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The event as it is known, locked: bookings being written now are seen by what follows.
pub(crate) async fn lock_event(
    conn: &mut PgConnection,
    event_id: EventId,
) -> Result<Option<Event>, sqlx::Error> {
    let event = sqlx::query_scalar!(
        r#"select event as "event: Json<Event>" from notifier.events
           where event_id = $1 for no key update"#,
        event_id.0,
    );
    Ok(event.fetch_optional(conn).await?.map(|event| event.0))
}

/// Keeps an event; `false` when this version or a later one was seen.
pub(crate) async fn put_event(
    conn: &mut PgConnection,
    event: &Event,
    remind_at: Option<DateTime<Utc>>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "insert into notifier.events as known
             (event_id, version, event, starts_at, remind_at, cancelled)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (event_id) do update
         set version = excluded.version, event = excluded.event, starts_at = excluded.starts_at,
             remind_at = excluded.remind_at, cancelled = excluded.cancelled
         where known.version < excluded.version",
        event.id.0,
        event.version,
        Json(event) as _,
        event.date,
        remind_at,
        event.state == EventState::Cancelled,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// Whether the account has a phone; `None` when the account or the event is not known. The event
/// can't change until the transaction ends, so that whoever hears of the change afterwards sees
/// what is written here.
pub(crate) async fn find_phone(
    conn: &mut PgConnection,
    account_id: AccountId,
    event_id: EventId,
) -> Result<Option<bool>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select account.phone is not null as "has_phone!"
           from notifier.accounts account, notifier.events event
           where account.account_id = $1 and event.event_id = $2
           for share of event"#,
        account_id.0,
        event_id.0,
    )
    .fetch_optional(conn)
    .await
}
