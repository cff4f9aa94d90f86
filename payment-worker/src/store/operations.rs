//! Operations: calls to Stripe, written with their idempotency key before they are made.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::payment::{PaymentState, VoidReason};
use domain::{BookingId, OperationId};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::breaker::THRESHOLD;
use super::known;
use crate::operation::{Kind, Operation, Request};

/// Adds an operation that is due at `due`; `false` when one of its kind is pending. The caller
/// holds the payment's lock.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    booking_id: BookingId,
    request: &Request,
    due: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let added = insert_all(conn, &[(booking_id, request)], due, now).await?;
    Ok(added == 1)
}

/// [`insert`] for many payments; returns how many were added.
pub(crate) async fn insert_all(
    conn: &mut PgConnection,
    new: &[(BookingId, &Request)],
    due: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<u64, sqlx::Error> {
    if new.is_empty() {
        return Ok(0);
    }
    let ids: Vec<_> = new.iter().map(|_| OperationId::new(now).0).collect();
    let bookings: Vec<_> = new.iter().map(|(booking, _)| booking.0).collect();
    let kinds: Vec<_> = new
        .iter()
        .map(|(_, request)| request.kind().as_str().to_owned())
        .collect();
    let refunds: Vec<_> = new
        .iter()
        .map(|(_, request)| request.refund_id().map(|id| id.0))
        .collect();
    let requests: Vec<_> = new.iter().map(|(_, request)| Json(*request)).collect();
    let done = sqlx::query!(
        "insert into payment.operations
             (id, booking_id, kind, refund_id, attempt, idempotency_key, params, state,
              next_try_at, created_at, updated_at)
         select new.id, new.booking_id, new.kind, new.refund_id, last.attempt + 1,
                'onsale-' || new.kind || '-' || coalesce(new.refund_id, new.booking_id)
                    || '-' || (last.attempt + 1),
                new.params, 'pending', $6, $7, $7
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::jsonb[])
                  as new (id, booking_id, kind, refund_id, params),
              lateral (select coalesce(max(o.attempt), 0) as attempt from payment.operations o
                       where o.booking_id = new.booking_id and o.kind = new.kind
                         and o.refund_id is not distinct from new.refund_id) last
         on conflict (booking_id, kind, refund_id) where state = 'pending' do nothing",
        &ids,
        &bookings,
        &kinds,
        refunds.as_slice() as &[Option<Uuid>],
        requests.as_slice() as &[Json<&Request>],
        due,
        now,
    );
    Ok(done.execute(conn).await?.rows_affected())
}

/// Claims up to `limit` due operations of a kind for `lease`, unless the breaker is open. One with
/// an expired lease is due again: its worker may have died after Stripe did it.
pub(crate) async fn claim_due(
    pool: &PgPool,
    kind: Kind,
    limit: i64,
    lease: Duration,
    now: DateTime<Utc>,
) -> Result<Vec<Operation>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"with due as (
             select id from payment.operations
             where state = 'pending' and kind = $4 and next_try_at <= $2
               and (leased_until is null or leased_until <= $2)
               and (select failures < $5 from payment.breaker)
             order by next_try_at limit $1
             for update skip locked)
         update payment.operations o
         set leased_until = $3, tries = tries + 1, updated_at = $2
         from due, payment.payments p
         where o.id = due.id and p.booking_id = o.booking_id
         returning o.id, o.booking_id, o.idempotency_key, o.params as "params: Json<Value>",
                   o.attempt, o.tries, o.created_at, p.intent_id, p.void_reason,
                   p.state as payment_state"#,
        limit,
        now,
        now + lease,
        kind.as_str(),
        THRESHOLD,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().filter_map(readable).collect())
}

/// Claims the operation that has waited longest, of any kind of this version, due or not: the probe
/// of an open breaker.
pub(crate) async fn claim_probe(
    pool: &PgPool,
    lease: Duration,
    now: DateTime<Utc>,
) -> Result<Vec<Operation>, sqlx::Error> {
    let kinds: Vec<_> = Kind::ALL.map(|kind| kind.as_str().to_owned()).into();
    let rows = sqlx::query_as!(
        Row,
        r#"with due as (
             select id from payment.operations
             where state = 'pending' and kind = any($3)
               and (leased_until is null or leased_until <= $1)
             order by next_try_at limit 1
             for update skip locked)
         update payment.operations o
         set leased_until = $2, tries = tries + 1, updated_at = $1
         from due, payment.payments p
         where o.id = due.id and p.booking_id = o.booking_id
         returning o.id, o.booking_id, o.idempotency_key, o.params as "params: Json<Value>",
                   o.attempt, o.tries, o.created_at, p.intent_id, p.void_reason,
                   p.state as payment_state"#,
        now,
        now + lease,
        &kinds,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().filter_map(readable).collect())
}

/// Claims the pending operation of this kind of a booking, due or not, for `lease`; `None` while it
/// is leased.
pub(crate) async fn claim_of(
    conn: &mut PgConnection,
    booking_id: BookingId,
    kind: Kind,
    lease: Duration,
    now: DateTime<Utc>,
) -> Result<Option<Operation>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"update payment.operations o
         set leased_until = $4, tries = tries + 1, updated_at = $3
         from payment.payments p
         where o.booking_id = $1 and o.kind = $2 and o.state = 'pending'
           and (o.leased_until is null or o.leased_until <= $3)
           and p.booking_id = o.booking_id
         returning o.id, o.booking_id, o.idempotency_key, o.params as "params: Json<Value>",
                   o.attempt, o.tries, o.created_at, p.intent_id, p.void_reason,
                   p.state as payment_state"#,
        booking_id.0,
        kind.as_str(),
        now,
        now + lease,
    );
    row.fetch_optional(conn)
        .await?
        .map(Operation::try_from)
        .transpose()
}

/// State and last error of an operation.
pub(crate) async fn outcome(
    pool: &PgPool,
    id: OperationId,
) -> Result<(String, Option<String>), sqlx::Error> {
    let row = sqlx::query!(
        "select state, last_error from payment.operations where id = $1",
        id.0
    );
    let row = row.fetch_one(pool).await?;
    Ok((row.state, row.last_error))
}

struct Row {
    id: Uuid,
    booking_id: Uuid,
    idempotency_key: String,
    params: Json<Value>,
    attempt: i32,
    tries: i32,
    created_at: DateTime<Utc>,
    intent_id: Option<String>,
    void_reason: Option<String>,
    payment_state: String,
}

/// The operation of a claimed row; `None`, and a log entry, for one that a later version wrote: it
/// is left to that version, which may claim it when the lease ends.
fn readable(row: Row) -> Option<Operation> {
    let id = row.id;
    Operation::try_from(row)
        .inspect_err(|error| tracing::error!(%id, %error, "failed to read an operation"))
        .ok()
}

impl TryFrom<Row> for Operation {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        let request = serde_json::from_value(row.params.0);
        Ok(Self {
            id: OperationId(row.id),
            booking_id: BookingId(row.booking_id),
            key: row.idempotency_key,
            request: request.map_err(|error| sqlx::Error::Decode(error.into()))?,
            attempt: row.attempt,
            tries: row.tries,
            created_at: row.created_at,
            intent_id: row.intent_id,
            void_reason: match &row.void_reason {
                Some(word) => Some(known(word, VoidReason::parse)?),
                None => None,
            },
            payment_state: known(&row.payment_state, PaymentState::parse)?,
        })
    }
}

/// Ends an operation; `false` when its lease was lost, so that another worker records the outcome.
pub(crate) async fn finish(
    conn: &mut PgConnection,
    operation: &Operation,
    succeeded: bool,
    error: Option<&str>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let state = if succeeded { "succeeded" } else { "failed" };
    let done = sqlx::query!(
        "update payment.operations
         set state = $3, last_error = $4, leased_until = null, updated_at = $5
         where id = $1 and tries = $2 and state = 'pending'",
        operation.id.0,
        operation.tries,
        state,
        error,
        now,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// Ends operations with success; returns those whose lease was not lost.
pub(crate) async fn succeed_all(
    conn: &mut PgConnection,
    operations: &[&Operation],
    now: DateTime<Utc>,
) -> Result<HashSet<OperationId>, sqlx::Error> {
    let ids: Vec<_> = operations.iter().map(|operation| operation.id.0).collect();
    let tries: Vec<_> = operations.iter().map(|operation| operation.tries).collect();
    let ended = sqlx::query_scalar!(
        "update payment.operations o
         set state = 'succeeded', last_error = null, leased_until = null, updated_at = $3
         from unnest($1::uuid[], $2::integer[]) as ended (id, tries)
         where o.id = ended.id and o.tries = ended.tries and o.state = 'pending'
         returning o.id",
        &ids,
        &tries,
        now,
    )
    .fetch_all(conn)
    .await?;
    Ok(ended.into_iter().map(OperationId).collect())
}

/// Reschedules an operation; `false` when its lease was lost.
pub(crate) async fn put_off(
    conn: &mut PgConnection,
    operation: &Operation,
    due: DateTime<Utc>,
    error: Option<&str>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update payment.operations
         set next_try_at = $3, leased_until = null, last_error = coalesce($4, last_error),
             updated_at = $5
         where id = $1 and tries = $2 and state = 'pending'",
        operation.id.0,
        operation.tries,
        due,
        error,
        now,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// Drops a pending creation; `false` while it is leased. Stripe may have created the PaymentIntent
/// all the same, but nobody has its secret, so nobody can pay it.
pub(crate) async fn drop_create(
    conn: &mut PgConnection,
    booking_id: BookingId,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update payment.operations set state = 'failed', last_error = 'not needed', updated_at = $2
         where booking_id = $1 and kind = 'create' and state = 'pending'
           and (leased_until is null or leased_until <= $2)",
        booking_id.0,
        now,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// Returns `true` if an operation of this kind is pending.
pub(crate) async fn is_pending(
    conn: &mut PgConnection,
    booking_id: BookingId,
    kind: Kind,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from payment.operations
                          where booking_id = $1 and kind = $2 and state = 'pending') as "yes!""#,
        booking_id.0,
        kind.as_str(),
    )
    .fetch_one(conn)
    .await
}

pub(crate) async fn count_pending(pool: &PgPool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from payment.operations where state = 'pending'"#
    )
    .fetch_one(pool)
    .await
}

/// Deletes up to `limit` settled operations written before `before`; returns how many. Ids begin
/// with the time, so the primary key finds the oldest.
pub(crate) async fn delete_settled(
    pool: &PgPool,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "delete from payment.operations where id in (
             select id from payment.operations
             where id < $1 and state <> 'pending' order by id limit $2
             for update skip locked)",
        OperationId::least_at(before).0,
        limit,
    );
    Ok(done.execute(pool).await?.rows_affected())
}
