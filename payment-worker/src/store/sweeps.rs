//! Reads what should have followed from a message and did not.

use chrono::{DateTime, Utc};
use domain::{BookingId, RefundId};
use sqlx::{PgConnection, PgPool};

/// Up to `limit` bookings that have had tickets since `before` and count as unpaid, with no capture
/// in flight; none whose payment was published again after `republished_before`.
pub(crate) async fn unpaid(
    pool: &PgPool,
    before: DateTime<Utc>,
    republished_before: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<BookingId>, sqlx::Error> {
    let ids = sqlx::query_scalar!(
        r#"select b.booking_id as "booking_id!"
           from booking.public_unpaid b join payment.payments p using (booking_id)
           where b.confirmed_at <= $1 and (p.told_at is null or p.told_at <= $2)
             and not exists (select from payment.operations o
                             where o.booking_id = b.booking_id and o.state = 'pending'
                               and o.kind in ('capture', 'cancel'))
           order by b.confirmed_at limit $3"#,
        before,
        republished_before,
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(BookingId).collect())
}

/// Up to `limit` bookings that are held though their payment has been authorised since `before`;
/// none whose payment was published again after `republished_before`.
pub(crate) async fn authorised_and_held(
    pool: &PgPool,
    before: DateTime<Utc>,
    republished_before: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<BookingId>, sqlx::Error> {
    let ids = sqlx::query_scalar!(
        r#"select p.booking_id
           from payment.payments p join booking.public_bookings b on b.id = p.booking_id
           where p.state = 'authorised' and p.intent_id is not null and p.updated_at <= $1
             and p.void_reason is distinct from 'cancelled' and b.state = 'held'
             and (p.told_at is null or p.told_at <= $2)
           order by p.checked_at limit $3"#,
        before,
        republished_before,
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(BookingId).collect())
}

/// Up to `limit` refunds that ended after `from` and until `to` without a mail about it, and were
/// not published again after `published`. Excludes events that began before `begun`, whose notices
/// may be pruned.
pub(crate) async fn unmailed_refunds(
    pool: &PgPool,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
    begun: DateTime<Utc>,
    published: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<(BookingId, RefundId)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select r.booking_id, r.id
           from payment.refunds r join payment.payments p using (booking_id)
           left join booking.public_starts e on e.event_id = p.event_id
           where r.state in ('succeeded', 'failed') and r.updated_at > $1 and r.updated_at <= $2
             and p.event_id is not null and p.account_id is not null
             and (e.starts_at is null or e.starts_at > $3)
             and (r.republished_at is null or r.republished_at <= $4)
             and not exists (
                 select from notifier.public_notices n
                 where n.booking_id = r.booking_id and n.account_id = p.account_id
                   and n.kind = case r.state when 'succeeded' then 'refunded' else 'refund_failed' end
                   and n.occasion = (select count(*) from payment.refunds earlier
                                     where earlier.booking_id = r.booking_id and earlier.id < r.id))
           order by r.updated_at limit $5"#,
        from,
        to,
        begun,
        published,
        limit,
    )
    .fetch_all(pool)
    .await?;
    let refunds = rows
        .into_iter()
        .map(|row| (BookingId(row.booking_id), RefundId(row.id)));
    Ok(refunds.collect())
}

/// Records that the outcome of the refund is published again.
pub(crate) async fn set_refund_republished(
    conn: &mut PgConnection,
    refund_id: RefundId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "update payment.refunds set republished_at = $2 where id = $1",
        refund_id.0,
        now,
    );
    done.execute(conn).await.map(|_| ())
}

/// Records that the state of the payment is published again.
pub(crate) async fn set_payment_republished(
    conn: &mut PgConnection,
    booking_id: BookingId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "update payment.payments set told_at = $2 where booking_id = $1",
        booking_id.0,
        now,
    );
    done.execute(conn).await.map(|_| ())
}

/// Deletes up to `limit` webhooks applied before `before`; returns how many.
pub(crate) async fn delete_webhooks(
    pool: &PgPool,
    before: DateTime<Utc>,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "delete from payment.webhook_inbox where event_id in (
             select event_id from payment.webhook_inbox
             where processed_at < $1 order by processed_at limit $2
             for update skip locked)",
        before,
        limit,
    );
    Ok(done.execute(pool).await?.rows_affected())
}
