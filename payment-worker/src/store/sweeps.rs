//! What should have followed, and did not.

use chrono::{DateTime, Utc};
use domain::BookingId;
use sqlx::{PgConnection, PgPool};

/// Up to `limit` bookings that have had tickets since `before` and count as unpaid, though no
/// capture is under way; not those that were told again after `told`.
pub(crate) async fn unpaid(
    pool: &PgPool,
    before: DateTime<Utc>,
    told: DateTime<Utc>,
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
        told,
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(BookingId).collect())
}

/// Up to `limit` bookings that are held though their payment has been authorised since `before`;
/// not those that were told again after `told`.
pub(crate) async fn authorised_and_held(
    pool: &PgPool,
    before: DateTime<Utc>,
    told: DateTime<Utc>,
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
        told,
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(BookingId).collect())
}

/// Notes that the others are told again what the payment is.
pub(crate) async fn set_told(
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

/// Deletes up to `limit` webhooks that were applied before `before`; how many.
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
