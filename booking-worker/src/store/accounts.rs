//! Counts of tickets per account, so that the limit is one guarded update: live tickets it holds,
//! and tickets it bought and gave away.

use std::collections::BTreeMap;

use domain::{AccountId, EventId};
use sqlx::PgConnection;

/// Tickets by event and account, in lock order.
pub(crate) type Tally = BTreeMap<(EventId, AccountId), i32>;

/// Counts new tickets; `false` when a limit would be exceeded, and the transaction must be rolled
/// back.
pub(crate) async fn add(conn: &mut PgConnection, tally: &Tally) -> Result<bool, sqlx::Error> {
    let (events, accounts, tickets) = columns(tally);
    let counted = sqlx::query!(
        "insert into booking.account_tickets as a (event_id, account_id, tickets)
         select event_id, account_id, tickets
         from unnest($1::bigint[], $2::bigint[], $3::integer[]) as new (event_id, account_id, tickets)
         order by event_id, account_id
         on conflict (event_id, account_id) do update set tickets = a.tickets + excluded.tickets
         where a.tickets + a.given_away + excluded.tickets <=
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

/// Subtracts tickets that are no longer live: `held` from their holders, `given_away` from their
/// buyers.
pub(crate) async fn subtract(
    conn: &mut PgConnection,
    held: &Tally,
    given_away: &Tally,
) -> Result<(), sqlx::Error> {
    let mut tally: BTreeMap<_, (i32, i32)> = BTreeMap::new();
    for (account, tickets) in held {
        tally.entry(*account).or_default().0 = *tickets;
    }
    for (account, tickets) in given_away {
        tally.entry(*account).or_default().1 = *tickets;
    }
    let events: Vec<_> = tally.keys().map(|(event, _)| event.0).collect();
    let accounts: Vec<_> = tally.keys().map(|(_, account)| account.0).collect();
    let tickets: Vec<_> = tally.values().map(|(held, _)| *held).collect();
    let given: Vec<_> = tally.values().map(|(_, given)| *given).collect();
    sqlx::query!(
        "with gone as materialized (
             select a.event_id, a.account_id, g.tickets, g.given_away
             from unnest($1::bigint[], $2::bigint[], $3::integer[], $4::integer[])
                  as g (event_id, account_id, tickets, given_away)
             join booking.account_tickets a using (event_id, account_id)
             order by a.event_id, a.account_id for update of a
         )
         update booking.account_tickets a
         set tickets = a.tickets - gone.tickets,
             given_away = greatest(a.given_away - gone.given_away, 0)
         from gone where a.event_id = gone.event_id and a.account_id = gone.account_id",
        &events,
        &accounts,
        &tickets,
        &given,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Counts tickets that a buyer gave away, which go on counting.
pub(crate) async fn give_away(
    conn: &mut PgConnection,
    event_id: EventId,
    buyer: AccountId,
    tickets: i32,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update booking.account_tickets set given_away = greatest(given_away + $3, 0)
         where event_id = $1 and account_id = $2",
        event_id.0,
        buyer.0,
        tickets,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Locks the rows of these accounts, in lock order, before counts move from one to another.
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
