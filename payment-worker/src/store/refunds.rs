//! Money that goes back.

use chrono::{DateTime, Utc};
use domain::payment::RefundState;
use domain::{BookingId, Currency, Money};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// A refund as it was read.
#[derive(Debug, Clone)]
pub(crate) struct RefundRow {
    /// Our id of it.
    pub id: Uuid,
    /// The booking whose payment goes back.
    pub booking_id: BookingId,
    /// How much.
    pub amount: Money,
}

/// Adds a refund; `false` when this occasion has one.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    refund: &RefundRow,
    occasion: &str,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "insert into payment.refunds
             (id, booking_id, amount_minor, currency, state, occasion,
              created_at, updated_at, checked_at)
         values ($1, $2, $3, $4, 'pending', $5, $6, $6, $6)
         on conflict (booking_id, occasion) do nothing",
        refund.id,
        refund.booking_id.0,
        refund.amount.amount_minor,
        refund.amount.currency.as_str(),
        occasion,
        now,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// The refund with our id.
pub(crate) async fn find(
    conn: &mut PgConnection,
    id: Uuid,
) -> Result<Option<RefundRow>, sqlx::Error> {
    let row = sqlx::query!(
        "select id, booking_id, amount_minor, currency from payment.refunds where id = $1",
        id
    );
    Ok(row.fetch_optional(conn).await?.map(|row| RefundRow {
        id: row.id,
        booking_id: BookingId(row.booking_id),
        amount: Money::new(
            row.amount_minor,
            Currency::try_from(row.currency).expect("copied from a payment"),
        ),
    }))
}

/// Notes Stripe's id of a refund.
pub(crate) async fn set_stripe_id(
    conn: &mut PgConnection,
    id: Uuid,
    stripe_refund_id: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "update payment.refunds set stripe_refund_id = $2, updated_at = $3
         where id = $1 and stripe_refund_id is null",
        id,
        stripe_refund_id,
        now,
    );
    done.execute(conn).await.map(|_| ())
}

/// Moves a refund on: `pending` to either end, or `succeeded` to `failed`, for the bank may send
/// the money back. `false` when it is there already, or can't go there.
pub(crate) async fn set_state(
    conn: &mut PgConnection,
    id: Uuid,
    to: RefundState,
    error: Option<&str>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update payment.refunds
         set state = $2, last_error = coalesce($3, last_error), updated_at = $4
         where id = $1 and (state = 'pending' or (state = 'succeeded' and $2 = 'failed'))",
        id,
        to.as_str(),
        error,
        now,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// Stripe's ids of the refunds of this PaymentIntent that are under way.
pub(crate) async fn under_way_of(
    pool: &PgPool,
    intent_id: &str,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select r.stripe_refund_id as "stripe_refund_id!"
         from payment.refunds r join payment.payments p using (booking_id)
         where p.intent_id = $1 and r.state = 'pending' and r.stripe_refund_id is not null"#,
        intent_id
    )
    .fetch_all(pool)
    .await
}

/// As [`claim_unsettled`](super::payments::claim_unsettled), for refunds that Stripe knows.
pub(crate) async fn claim_unsettled(
    pool: &PgPool,
    before: DateTime<Utc>,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"update payment.refunds set checked_at = $3
         where id in (
             select id from payment.refunds
             where stripe_refund_id is not null and state = 'pending' and checked_at < $1
             order by checked_at limit $2
             for update skip locked)
         returning stripe_refund_id as "stripe_refund_id!""#,
        before,
        limit,
        now,
    )
    .fetch_all(pool)
    .await
}
