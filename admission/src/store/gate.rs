//! SQL of the gate of each sale: its claims, its ready line and its rate window.
//!
//! Every transaction that changes a claim first locks the sale's row in `admission.gates`. Claims
//! and ends of one sale are thus serialised, and `change` numbers them in commit order: a reader
//! that has seen one has seen all before it.

use chrono::{DateTime, Utc};
use domain::gate::{self, RETRY_TIMEOUT, Ready, Window};
use domain::token::LEEWAY_SECONDS;
use domain::{AccountId, EventId, Place};
use platform::pg::BrokenInvariant;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// Maximum number of places of a ready line that are considered; those behind keep waiting.
const MAX_READY: i64 = 5_000;

/// Maximum number of passes that expire in one transaction; the rest expire in the next ones.
const MAX_EXPIRED: i64 = 1_000;

/// An unsigned pass. Signing is deterministic: the same grant yields the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Grant {
    /// The place that claimed it.
    pub place: Place,
    /// Id of the pass.
    pub jti: Uuid,
    /// Time of issue, in Unix seconds.
    pub iat: i64,
    /// Expiry, in Unix seconds.
    pub exp: i64,
}

/// A pass that was ended before its expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RevokedPass {
    /// Id of the pass.
    pub jti: Uuid,
    /// Expiry, in Unix seconds.
    pub ends_at: i64,
}

/// A gate whose row lock is held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Locked {
    pub(crate) event_id: EventId,
    /// Number of the last change.
    pub(crate) changes: i64,
    /// Count of running passes.
    pub(crate) shopping: i32,
}

/// A stored claim.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claimed {
    pub(crate) account_id: AccountId,
    pub(crate) grant: Grant,
    pub(crate) is_over: bool,
}

/// A claim to store.
#[derive(Debug, Clone)]
pub(crate) struct NewPass {
    pub(crate) account_id: AccountId,
    pub(crate) grant: Grant,
}

/// Locks the sale's gate until the end of the transaction, creating it for the first claim.
pub(crate) async fn lock(
    conn: &mut PgConnection,
    event_id: EventId,
) -> Result<Locked, sqlx::Error> {
    if let Some(locked) = lock_existing(&mut *conn, event_id).await? {
        return Ok(locked);
    }
    sqlx::query!(
        "insert into admission.gates (event_id) values ($1) on conflict do nothing",
        event_id.0,
    )
    .execute(&mut *conn)
    .await?;
    lock_existing(conn, event_id)
        .await?
        .ok_or_else(|| BrokenInvariant("a gate that was inserted exists").into())
}

async fn lock_existing(
    conn: &mut PgConnection,
    event_id: EventId,
) -> Result<Option<Locked>, sqlx::Error> {
    let row = sqlx::query!(
        "select changes, shopping from admission.gates where event_id = $1 for update",
        event_id.0,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Locked {
        event_id,
        changes: row.changes,
        shopping: row.shopping,
    }))
}

/// Expires passes that no clock accepts any more ([`LEEWAY_SECONDS`] after their expiry), lapsed
/// places of the ready line, and claim counts older than a minute. Returns the time used: `at`, or
/// the database's, which is the same for every node.
pub(crate) async fn expire_due(
    conn: &mut PgConnection,
    locked: &mut Locked,
    at: Option<DateTime<Utc>>,
) -> Result<DateTime<Utc>, sqlx::Error> {
    let expired = sqlx::query!(
        r#"with t as materialized (select coalesce($2, clock_timestamp()) as now),
           due as (
               select c.place, row_number() over (order by c.ends_at, c.place) as nth
               from admission.claims c
               where c.event_id = $1 and c.over_at is null
                 and c.ends_at <= (select floor(extract(epoch from t.now))::bigint - $6 from t)
               order by c.ends_at, c.place limit $5
           ), ended as (
               update admission.claims c set over_at = (select t.now from t), change = $3 + due.nth
               from due where c.event_id = $1 and c.place = due.place
               returning c.place
           ), lapsed as (
               delete from admission.ready r
               where r.event_id = $1
                 and r.tried_at <= (select t.now - make_interval(secs => $4) from t)
           ), old as (
               delete from admission.claim_counts k
               where k.event_id = $1
                 and k.bucket
                     < (select floor(extract(epoch from t.now) * 4)::bigint - 241 from t)
           )
           select t.now as "now!", (select count(*) from ended) as "ended!" from t"#,
        locked.event_id.0,
        at,
        locked.changes,
        RETRY_TIMEOUT.as_seconds_f64(),
        MAX_EXPIRED,
        LEEWAY_SECONDS.cast_signed(),
    )
    .fetch_one(conn)
    .await?;
    locked.changes += expired.ended;
    locked.shopping -= i32::try_from(expired.ended).unwrap_or(i32::MAX);
    Ok(expired.now)
}

/// Stores the gate's last change and its count of running passes.
pub(crate) async fn save(conn: &mut PgConnection, locked: Locked) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update admission.gates set changes = $2, shopping = $3
         where event_id = $1 and changes <> $2",
        locked.event_id.0,
        locked.changes,
        locked.shopping,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Returns the claim counts of the minute that ends at `now`.
pub(crate) async fn window(
    conn: &mut PgConnection,
    event_id: EventId,
    now: DateTime<Utc>,
) -> Result<Window, sqlx::Error> {
    let rows = sqlx::query!(
        "select bucket, claims from admission.claim_counts where event_id = $1 and bucket >= $2",
        event_id.0,
        gate::oldest_bucket(now),
    )
    .fetch_all(conn)
    .await?;
    let counts = rows
        .into_iter()
        .map(|row| (row.bucket, u32::try_from(row.claims).unwrap_or(0)))
        .collect();
    Ok(Window::new(counts))
}

/// Returns the head of the ready line, in order, at most [`MAX_READY`] places.
pub(crate) async fn ready(
    conn: &mut PgConnection,
    event_id: EventId,
) -> Result<Vec<Ready>, sqlx::Error> {
    let rows = sqlx::query!(
        "select place, since, tried_at from admission.ready
         where event_id = $1 order by since, place limit $2",
        event_id.0,
        MAX_READY,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Ready {
            place: Place(row.place),
            since: row.since,
            tried_at: row.tried_at,
        })
        .collect())
}

/// Returns the claims of `places`, by any account, and the running ones of `accounts`.
pub(crate) async fn claimed(
    conn: &mut PgConnection,
    event_id: EventId,
    places: &[i64],
    accounts: &[i64],
) -> Result<Vec<Claimed>, sqlx::Error> {
    let rows = sqlx::query!(
        // Each place and account is looked up by itself, also in a plan that was made while the
        // table was empty: for a list, or where the index of running claims applies, such a plan
        // reads all claims of the sale.
        r#"select c.place as "place!", c.account_id as "account_id!", c.jti as "jti!",
                  c.issued_at as "issued_at!", c.ends_at as "ends_at!",
                  c.over_at is not null as "is_over!"
           from unnest($2::bigint[]) as asked (place)
           cross join lateral (
               select * from admission.claims where event_id = $1 and place = asked.place
               limit 1) c
           union
           select c.place, c.account_id, c.jti, c.issued_at, c.ends_at, false
           from unnest($3::bigint[]) as asking (account_id)
           cross join lateral (
               select * from admission.claims
               where event_id = $1 and account_id = asking.account_id
               offset 0) c
           where c.over_at is null"#,
        event_id.0,
        places,
        accounts,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Claimed {
            account_id: AccountId(row.account_id),
            grant: Grant {
                place: Place(row.place),
                jti: row.jti,
                iat: row.issued_at,
                exp: row.ends_at,
            },
            is_over: row.is_over,
        })
        .collect())
}

/// Stores the passes issued at `now`, and the places that enter or stay in the ready line.
pub(crate) async fn write(
    conn: &mut PgConnection,
    locked: &mut Locked,
    now: DateTime<Utc>,
    passes: &[NewPass],
    waiting: &[i64],
) -> Result<(), sqlx::Error> {
    let places: Vec<i64> = passes.iter().map(|pass| pass.grant.place.0).collect();
    let accounts: Vec<i64> = passes.iter().map(|pass| pass.account_id.0).collect();
    let ids: Vec<Uuid> = passes.iter().map(|pass| pass.grant.jti).collect();
    let issued: Vec<i64> = passes.iter().map(|pass| pass.grant.iat).collect();
    let ends: Vec<i64> = passes.iter().map(|pass| pass.grant.exp).collect();
    let given = i32::try_from(passes.len()).expect("a batch is small");
    // Places that arrived together are kept in order of arrival, a microsecond apart.
    sqlx::query!(
        "with passed as (
             insert into admission.claims
                 (event_id, place, account_id, jti, claimed_at, issued_at, ends_at, change)
             select $1, p.place, p.account_id, p.jti, $2, p.issued_at, p.ends_at, $3 + p.nth
             from unnest($4::bigint[], $5::bigint[], $6::uuid[], $7::bigint[], $8::bigint[])
                  with ordinality as p (place, account_id, jti, issued_at, ends_at, nth)
         ), counted as (
             insert into admission.claim_counts (event_id, bucket, claims)
             select $1, $9, $10::integer where $10::integer > 0
             on conflict (event_id, bucket)
                 do update set claims = claim_counts.claims + excluded.claims
         ), through as (
             delete from admission.ready where event_id = $1 and place = any($4)
         )
         insert into admission.ready (event_id, place, since, tried_at)
         select $1, w.place, $2 + w.nth * interval '1 microsecond', $2
         from unnest($11::bigint[]) with ordinality as w (place, nth)
         on conflict (event_id, place) do update set tried_at = excluded.tried_at",
        locked.event_id.0,
        now,
        locked.changes,
        &places,
        &accounts,
        &ids,
        &issued,
        &ends,
        gate::bucket(now),
        given,
        waiting,
    )
    .execute(conn)
    .await?;
    locked.changes += i64::from(given);
    locked.shopping += given;
    Ok(())
}

/// Ends the running pass `jti`, which frees its slot; `None` when it had ended before.
pub(crate) async fn end(
    conn: &mut PgConnection,
    locked: &mut Locked,
    jti: Uuid,
    now: DateTime<Utc>,
) -> Result<Option<RevokedPass>, sqlx::Error> {
    let ended = sqlx::query_scalar!(
        // Found by its id alone, also in a plan that was made while the table was empty: where the
        // index of running claims applies, such a plan reads all of the sale. Nobody else changes
        // the row meanwhile, since the gate is locked.
        "update admission.claims c set over_at = $3, change = $4
         from (select event_id, place, over_at from admission.claims
               where jti = $2 offset 0) as found
         where found.event_id = $1 and found.over_at is null
             and c.event_id = found.event_id and c.place = found.place
         returning c.ends_at",
        locked.event_id.0,
        jti,
        now,
        locked.changes + 1,
    )
    .fetch_optional(conn)
    .await?;
    let Some(ends_at) = ended else {
        return Ok(None);
    };
    locked.changes += 1;
    locked.shopping -= 1;
    Ok(Some(RevokedPass { jti, ends_at }))
}

/// Returns each account's running passes that were issued up to the given time.
pub(crate) async fn running_of(
    conn: &mut PgConnection,
    event_id: EventId,
    accounts: &[(AccountId, DateTime<Utc>)],
) -> Result<Vec<Uuid>, sqlx::Error> {
    let ids: Vec<_> = accounts.iter().map(|(account, _)| account.0).collect();
    let until: Vec<_> = accounts.iter().map(|(_, at)| at.timestamp()).collect();
    sqlx::query_scalar!(
        // Account by account, for the reason given at [`claimed`].
        "select distinct c.jti from unnest($2::bigint[], $3::bigint[]) as done (account_id, until)
         cross join lateral (
             select * from admission.claims
             where event_id = $1 and account_id = done.account_id
             offset 0) c
         where c.over_at is null and c.issued_at <= done.until",
        event_id.0,
        &ids,
        &until,
    )
    .fetch_all(conn)
    .await
}

/// Returns the sales with expired passes that are still counted as running.
pub(crate) async fn due(db: &PgPool) -> Result<Vec<EventId>, sqlx::Error> {
    let events = sqlx::query_scalar!(
        // The subquery makes the time a constant of the index scan.
        "select distinct event_id from admission.claims
         where over_at is null
           and ends_at <= (select floor(extract(epoch from clock_timestamp()))::bigint - $1)",
        LEEWAY_SECONDS.cast_signed(),
    )
    .fetch_all(db)
    .await?;
    Ok(events.into_iter().map(EventId).collect())
}

#[cfg(test)]
mod tests {
    use platform::testing::TestApp;

    use super::*;

    /// Rows of claims that this transaction has read.
    async fn rows_read(conn: &mut PgConnection) -> i64 {
        let read = "select seq_tup_read + idx_tup_fetch from pg_stat_xact_all_tables
            where relid = 'admission.claims'::regclass";
        sqlx::query_scalar(read).fetch_one(conn).await.unwrap()
    }

    #[tokio::test]
    async fn a_claim_reads_its_own_rows_also_by_a_plan_made_while_nobody_had_claimed() {
        let app = TestApp::start().await;
        let mut tx = app.ctx.db.begin().await.unwrap();
        sqlx::query("set local plan_cache_mode = force_generic_plan")
            .execute(&mut *tx)
            .await
            .unwrap();
        let event = EventId(1);
        let now = app.ctx.clock.now();
        let mut locked = lock(&mut tx, event).await.unwrap();
        let buyers = [(AccountId(7), now), (AccountId(8), now)];
        let found = claimed(&mut tx, event, &[1], &[1]).await.unwrap();
        let running = running_of(&mut tx, event, &buyers).await.unwrap();
        let ended = end(&mut tx, &mut locked, Uuid::nil(), now).await.unwrap();
        assert!(found.is_empty() && running.is_empty() && ended.is_none());
        sqlx::query(
            "insert into admission.claims (event_id, place, account_id, jti, claimed_at, issued_at,
                                           ends_at, change)
             select 1, n, n, gen_random_uuid(), now(), 0, 4000000000, n + 100000
             from generate_series(1, 20000) n",
        )
        .execute(&mut *tx)
        .await
        .unwrap();
        let before = rows_read(&mut tx).await;
        let found = claimed(&mut tx, event, &[5, 6], &[7, 8]).await.unwrap();
        assert_eq!(found.len(), 4);
        assert_eq!(rows_read(&mut tx).await - before, 4);

        let before = rows_read(&mut tx).await;
        let running = running_of(&mut tx, event, &buyers).await.unwrap();
        assert_eq!(running.len(), 2);
        assert_eq!(rows_read(&mut tx).await - before, 2);

        let before = rows_read(&mut tx).await;
        let ended = end(&mut tx, &mut locked, running[0], now).await.unwrap();
        assert!(ended.is_some());
        // Once to find it, once to change it.
        assert_eq!(rows_read(&mut tx).await - before, 2);
        drop(tx);
        app.finish().await;
    }
}
