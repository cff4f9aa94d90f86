//! How many live tickets each account has, so that the limit is one guarded update.

use std::collections::BTreeMap;

use domain::{AccountId, EventId};
use sqlx::PgConnection;

/// Tickets by event and account, in the order rows are locked.
pub(crate) type Tally = BTreeMap<(EventId, AccountId), i32>;

/// Counts new tickets. `false` when that would exceed the limit of an event: then nothing may be
/// committed.
pub(crate) async fn add(conn: &mut PgConnection, tally: &Tally) -> Result<bool, sqlx::Error> {
    let (events, accounts, tickets) = columns(tally);
    let counted = sqlx::query!(
        "insert into booking.account_tickets as a (event_id, account_id, tickets)
         select event_id, account_id, tickets
         from unnest($1::bigint[], $2::bigint[], $3::integer[]) as new (event_id, account_id, tickets)
         order by event_id, account_id
         on conflict (event_id, account_id) do update set tickets = a.tickets + excluded.tickets
         where a.tickets + excluded.tickets <=
               (select e.max_tickets_per_account from booking.events e where e.event_id = a.event_id)",
        &events,
        &accounts,
        &tickets,
    )
    .execute(conn)
    .await?
    .rows_affected();
    Ok(usize::try_from(counted) == Ok(tally.len()))
}

/// Takes tickets that are no longer live off.
pub(crate) async fn subtract(conn: &mut PgConnection, tally: &Tally) -> Result<(), sqlx::Error> {
    let (events, accounts, tickets) = columns(tally);
    sqlx::query!(
        "with gone as materialized (
             select a.event_id, a.account_id, g.tickets
             from unnest($1::bigint[], $2::bigint[], $3::integer[]) as g (event_id, account_id, tickets)
             join booking.account_tickets a using (event_id, account_id)
             order by a.event_id, a.account_id for update of a
         )
         update booking.account_tickets a set tickets = a.tickets - gone.tickets
         from gone where a.event_id = gone.event_id and a.account_id = gone.account_id",
        &events,
        &accounts,
        &tickets,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Locks the rows of these accounts, in the order in which all are locked, for counts that go from
/// one to another.
pub(crate) async fn lock(
    conn: &mut PgConnection,
    event_id: EventId,
    accounts: &[AccountId],
) -> Result<(), sqlx::Error> {
    let accounts: Vec<_> = accounts.iter().map(|account| account.0).collect();
    sqlx::query!(
        "insert into booking.account_tickets as a (event_id, account_id, tickets)
         select $1, account_id, 0 from unnest($2::bigint[]) as wanted (account_id)
         order by account_id
         on conflict (event_id, account_id) do update set tickets = a.tickets",
        event_id.0,
        &accounts,
    )
    .execute(conn)
    .await?;
    Ok(())
}

fn columns(tally: &Tally) -> (Vec<i64>, Vec<i64>, Vec<i32>) {
    let events = tally.keys().map(|(event, _)| event.0).collect();
    let accounts = tally.keys().map(|(_, account)| account.0).collect();
    (events, accounts, tally.values().copied().collect())
}
