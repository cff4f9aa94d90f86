//! SQL of numbers and leavings: `waiting_room.lines`, `numbers` and `leavings`.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::{AccountId, EventId, Number};
use platform::pg::run_tx;
use sqlx::{PgPool, Postgres, Transaction};

/// A joiner that requests a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NumberRequest {
    /// Account, or visitor with a negative id.
    pub joiner: AccountId,
    /// Its present number, if that is used up and to be replaced.
    pub used_up: Option<Number>,
}

/// The number of a joiner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IssuedNumber {
    /// Its present number.
    pub number: Number,
    /// `false` when it was issued before.
    pub is_new: bool,
}

/// Issues numbers to those of `requests` that have none, in that order, and commits. Joiners must
/// be distinct. Returns everybody's number, in the same order.
///
/// # Errors
/// When PostgreSQL fails. If the outcome is unknown, a retry returns the numbers that were issued.
pub async fn join(
    db: &PgPool,
    event_id: EventId,
    requests: &[NumberRequest],
    now: DateTime<Utc>,
) -> Result<Vec<IssuedNumber>, sqlx::Error> {
    let joiners: Vec<i64> = requests.iter().map(|request| request.joiner.0).collect();
    let used_up: Vec<Option<i64>> = requests
        .iter()
        .map(|request| request.used_up.map(|number| number.0))
        .collect();
    let (joiners, used_up) = (&joiners, &used_up);
    run_tx(db, "waiting-room.join", |tx| {
        Box::pin(async move {
            let joined = lock_line(tx, event_id).await?;
            issue(tx, event_id, joined, joiners, used_up, now).await
        })
    })
    .await
}

/// Locks the sale's row, which serialises its joins and leavings. Returns the highest number
/// issued.
async fn lock_line(
    tx: &mut Transaction<'_, Postgres>,
    event_id: EventId,
) -> Result<i64, sqlx::Error> {
    loop {
        let joined = sqlx::query_scalar!(
            "select joined from waiting_room.lines where event_id = $1 for update",
            event_id.0
        )
        .fetch_optional(&mut **tx)
        .await?;
        if let Some(joined) = joined {
            return Ok(joined);
        }
        sqlx::query!(
            "insert into waiting_room.lines (event_id) values ($1) on conflict do nothing",
            event_id.0
        )
        .execute(&mut **tx)
        .await?;
    }
}

/// Issues the numbers. A separate statement from the lock, so that its snapshot includes everything
/// that committed before the lock was granted.
async fn issue(
    tx: &mut Transaction<'_, Postgres>,
    event_id: EventId,
    joined: i64,
    joiners: &[i64],
    used_up: &[Option<i64>],
    now: DateTime<Utc>,
) -> Result<Vec<IssuedNumber>, sqlx::Error> {
    let row = sqlx::query!(
        // Scalar subqueries, not joins: before the first statistics of a new sale the planner would
        // scan all its numbers for each batch. `again` always conflicts and `new` never does, since
        // the line is locked.
        r#"with found as materialized (
               select a.account_id, a.nth, a.used_up,
                      (select n.number from waiting_room.numbers n
                       where n.event_id = $1 and n.account_id = a.account_id) as has
               from unnest($3::bigint[], $4::bigint[])
                   with ordinality as a (account_id, used_up, nth)
           ), asking as materialized (
               select account_id, nth, has,
                      has is null or has is not distinct from used_up
                      or (select l.change from waiting_room.leavings l
                          where l.event_id = $1 and l.number = has) is not null as is_due
               from found
           ), given as materialized (
               select account_id, nth, has, is_due,
                      case when is_due
                           then $2 + count(*) filter (where is_due) over (order by nth)
                           else has end as number
               from asking
           ), new as (
               insert into waiting_room.numbers (event_id, account_id, number, joined_at)
               select $1, account_id, number, $5 from given where has is null
           ), again as (
               insert into waiting_room.numbers (event_id, account_id, number, joined_at)
               select $1, account_id, number, $5 from given where is_due and has is not null
               on conflict (event_id, account_id) do update
               set number = excluded.number, joined_at = excluded.joined_at
           ), counted as (
               update waiting_room.lines
               set joined = joined + (select count(*) from given where is_due),
                   updated_at = clock_timestamp()
               where event_id = $1 and exists (select from given where is_due)
           )
           select coalesce(array_agg(number order by nth), '{}') as "numbers!",
                  coalesce(array_agg(is_due order by nth), '{}') as "are_new!"
           from given"#,
        event_id.0,
        joined,
        joiners,
        used_up as &[Option<i64>],
        now,
    )
    .fetch_one(&mut **tx)
    .await?;
    let issued = row.numbers.into_iter().zip(row.are_new);
    Ok(issued
        .map(|(number, is_new)| IssuedNumber {
            number: Number(number),
            is_new,
        })
        .collect())
}

/// Returns the present number of each of `joiners` that has one.
///
/// # Errors
/// When PostgreSQL fails.
pub async fn numbers_of(
    db: &PgPool,
    event_id: EventId,
    joiners: &[AccountId],
) -> Result<HashMap<AccountId, Number>, sqlx::Error> {
    let joiners: Vec<i64> = joiners.iter().map(|joiner| joiner.0).collect();
    let rows = sqlx::query!(
        "select account_id, number from waiting_room.numbers
         where event_id = $1 and account_id = any($2)",
        event_id.0,
        &joiners,
    );
    let rows = rows.fetch_all(db).await?.into_iter();
    Ok(rows
        .map(|row| (AccountId(row.account_id), Number(row.number)))
        .collect())
}

/// Records that joiners left, each with its number. Idempotent; a number that was replaced since is
/// ignored.
///
/// # Errors
/// When PostgreSQL fails; safe to retry.
pub async fn leave(
    db: &PgPool,
    event_id: EventId,
    leavers: &[(AccountId, Number)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let joiners: Vec<i64> = leavers.iter().map(|(joiner, _)| joiner.0).collect();
    let numbers: Vec<i64> = leavers.iter().map(|(_, number)| number.0).collect();
    let (joiners, numbers) = (&joiners, &numbers);
    run_tx(db, "waiting-room.leave", |tx| {
        Box::pin(async move {
            lock_line(tx, event_id).await?;
            sqlx::query!(
                "with own as materialized (
                     select distinct n.number
                     from unnest($2::bigint[], $3::bigint[]) as l (account_id, number)
                     join waiting_room.numbers n
                       on n.event_id = $1 and n.account_id = l.account_id and n.number = l.number
                     where not exists (select from waiting_room.leavings
                                       where event_id = $1 and number = n.number)
                 ), counted as (
                     update waiting_room.lines
                     set leavings = leavings + (select count(*) from own),
                         updated_at = clock_timestamp()
                     where event_id = $1 and exists (select from own)
                     returning leavings - (select count(*) from own) as before
                 )
                 insert into waiting_room.leavings (event_id, number, change, left_at)
                 select $1, own.number,
                        counted.before + row_number() over (order by own.number), $4
                 from own, counted",
                event_id.0,
                joiners,
                numbers,
                now,
            )
            .execute(&mut **tx)
            .await?;
            Ok(())
        })
    })
    .await
}
