//! SQL of accounts and events, replicated from box-office.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::event::{Event, EventState};
use domain::message::AccountChanged;
use domain::{AccountId, EventId};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use crate::notice::Announced;

/// Upserts an account, unless this or a later version is stored.
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

/// Returns the announced fields of the stored event and locks its row, so that the announcement
/// sees bookings that are being written concurrently. An event that only a later version of the
/// program can parse counts as unknown.
pub(crate) async fn lock_event(
    conn: &mut PgConnection,
    event_id: EventId,
) -> Result<Option<Announced>, sqlx::Error> {
    let event = sqlx::query_scalar!(
        "select event from notifier.events where event_id = $1 for no key update",
        event_id.0,
    );
    let event = event.fetch_optional(conn).await?;
    Ok(event
        .and_then(|event| serde_json::from_value(event).ok())
        .map(|event: Event| Announced::of(&event)))
}

/// Upserts an event; returns `false` if this or a later version is stored. An event already
/// reminded of that moves by less than half its reminder's lead time is not reminded of again,
/// since the news of the change says the same.
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
             remind_at = excluded.remind_at, cancelled = excluded.cancelled,
             reminded_for = case when excluded.starts_at - known.reminded_for
                                      < (excluded.starts_at - excluded.remind_at) / 2
                            then excluded.starts_at else known.reminded_for end
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

/// Copies unknown accounts from box-office's view, in case their message is late or was lost in a
/// failover. Returns true if any was found.
pub(crate) async fn look_up_accounts(
    conn: &mut PgConnection,
    accounts: &[AccountId],
) -> Result<bool, sqlx::Error> {
    let accounts: Vec<_> = accounts.iter().map(|account| account.0).collect();
    let done = sqlx::query!(
        r#"insert into notifier.accounts (account_id, version, email, name, phone)
           select account_id, version, email, name, phone from box_office.public_contacts
           where account_id = any($1)
           order by account_id
           on conflict (account_id) do nothing"#,
        &accounts,
    );
    Ok(done.execute(conn).await?.rows_affected() > 0)
}

/// Returns, for each known pair of account and event, whether the account has a phone. Locks the
/// events for share, so that a later change of an event sees the bookings written here.
pub(crate) async fn find_phones(
    conn: &mut PgConnection,
    addressees: &[(AccountId, EventId)],
) -> Result<HashMap<(AccountId, EventId), bool>, sqlx::Error> {
    let accounts: Vec<_> = addressees.iter().map(|(account, _)| account.0).collect();
    let events: Vec<_> = addressees.iter().map(|(_, event)| event.0).collect();
    let rows = sqlx::query!(
        r#"select account_id as "account_id!", event_id as "event_id!",
                  account.phone is not null as "has_phone!"
           from unnest($1::bigint[], $2::bigint[]) as addressee (account_id, event_id)
           join notifier.accounts account using (account_id)
           join notifier.events event using (event_id)
           order by event_id for share of event"#,
        &accounts,
        &events,
    )
    .fetch_all(conn)
    .await?;
    let pairs = rows.into_iter().map(|row| {
        let addressee = (AccountId(row.account_id), EventId(row.event_id));
        (addressee, row.has_phone)
    });
    Ok(pairs.collect())
}
