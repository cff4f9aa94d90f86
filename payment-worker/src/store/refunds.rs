//! Refunds.

use chrono::{DateTime, Utc};
use domain::payment::{RefundState, machine};
use domain::{BookingId, Currency, EventId, Money, RefundId};
use sqlx::{PgConnection, PgPool};

use super::known;

#[derive(Debug, Clone)]
pub(crate) struct RefundRow {
    /// Our id.
    pub id: RefundId,
    pub booking_id: BookingId,
    pub amount: Money,
}

/// Inserts a refund; `false` when this occasion has one.
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
        refund.id.0,
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
    id: RefundId,
) -> Result<Option<RefundRow>, sqlx::Error> {
    let row = sqlx::query!(
        "select id, booking_id, amount_minor, currency from payment.refunds where id = $1",
        id.0
    );
    Ok(row.fetch_optional(conn).await?.map(|row| RefundRow {
        id: RefundId(row.id),
        booking_id: BookingId(row.booking_id),
        amount: Money::new(
            row.amount_minor,
            Currency::try_from(row.currency).expect("copied from a payment"),
        ),
    }))
}

/// Counts the booking's refunds that began before this one.
pub(crate) async fn number_of(
    conn: &mut PgConnection,
    refund: &RefundRow,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select count(*) as "number!" from payment.refunds
           where booking_id = $1 and id < $2"#,
        refund.booking_id.0,
        refund.id.0,
    )
    .fetch_one(conn)
    .await
}

/// Records Stripe's id.
pub(crate) async fn set_stripe_id(
    conn: &mut PgConnection,
    id: RefundId,
    stripe_refund_id: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "update payment.refunds set stripe_refund_id = $2, updated_at = $3
         where id = $1 and stripe_refund_id is null",
        id.0,
        stripe_refund_id,
        now,
    );
    done.execute(conn).await.map(|_| ())
}

/// The state with its data.
pub(crate) async fn standing(
    conn: &mut PgConnection,
    id: RefundId,
) -> Result<Option<machine::Refund>, sqlx::Error> {
    let row = sqlx::query!(
        "select state, last_error from payment.refunds where id = $1",
        id.0
    );
    let Some(row) = row.fetch_optional(conn).await? else {
        return Ok(None);
    };
    Ok(Some(match known(&row.state, RefundState::parse)? {
        RefundState::Pending => machine::Refund::Pending,
        RefundState::Succeeded => machine::Refund::Succeeded,
        RefundState::Failed => machine::Refund::Failed {
            reason: row.last_error.unwrap_or_default(),
        },
    }))
}

/// Moves a refund from the state it was read in; `false` when it left that state.
pub(crate) async fn advance(
    conn: &mut PgConnection,
    id: RefundId,
    from: RefundState,
    to: &machine::Refund,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let error = match to {
        machine::Refund::Failed { reason } => Some(reason.as_str()),
        machine::Refund::Pending | machine::Refund::Succeeded => None,
    };
    let done = sqlx::query!(
        "update payment.refunds
         set state = $3, last_error = coalesce($4, last_error), updated_at = $5
         where id = $1 and state = $2",
        id.0,
        from.as_str(),
        to.state().as_str(),
        error,
        now,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// Stripe's ids of the pending refunds of this PaymentIntent.
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

/// [`claim_unsettled`](super::payments::claim_unsettled) for refunds that Stripe knows.
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

/// Inserts a refund that was made in Stripe's dashboard, with Stripe's id as its occasion; `false`
/// when it is known.
pub(crate) async fn insert_foreign(
    conn: &mut PgConnection,
    refund: &RefundRow,
    stripe_refund_id: &str,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "insert into payment.refunds
             (id, booking_id, amount_minor, currency, state, stripe_refund_id, occasion,
              created_at, updated_at, checked_at)
         values ($1, $2, $3, $4, 'pending', $5, $5, $6, $6, $6)
         on conflict do nothing",
        refund.id.0,
        refund.booking_id.0,
        refund.amount.amount_minor,
        refund.amount.currency.as_str(),
        stripe_refund_id,
        now,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// Our id of Stripe's refund.
pub(crate) async fn id_of(
    conn: &mut PgConnection,
    stripe_refund_id: &str,
) -> Result<Option<RefundId>, sqlx::Error> {
    let id = sqlx::query_scalar!(
        "select id from payment.refunds where stripe_refund_id = $1",
        stripe_refund_id
    );
    Ok(id.fetch_optional(conn).await?.map(RefundId))
}

/// Our state of Stripe's refund.
pub(crate) async fn state_of(
    conn: &mut PgConnection,
    stripe_refund_id: &str,
) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "select state from payment.refunds where stripe_refund_id = $1",
        stripe_refund_id
    )
    .fetch_optional(conn)
    .await
}

/// A refund as staff see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Our id.
    pub id: RefundId,
    /// In minor units.
    pub amount_minor: i64,
    pub currency: String,
    /// `pending`, `succeeded` or `failed`.
    pub state: String,
}

/// The booking's refund of this occasion.
pub(crate) async fn of_occasion(
    conn: &mut PgConnection,
    booking_id: BookingId,
    occasion: &str,
) -> Result<Option<Standing>, sqlx::Error> {
    let row = sqlx::query!(
        "select id, amount_minor, currency, state from payment.refunds
         where booking_id = $1 and occasion = $2",
        booking_id.0,
        occasion,
    );
    Ok(row.fetch_optional(conn).await?.map(|row| Standing {
        id: RefundId(row.id),
        amount_minor: row.amount_minor,
        currency: row.currency,
        state: row.state,
    }))
}

/// Progress of an event's refunds.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Progress {
    /// Bookings that still have seats.
    pub bookings_left: i64,
    /// Refunds in flight.
    pub pending: i64,
    /// Refunds that Stripe has made.
    pub succeeded: i64,
    pub failed: i64,
    /// Sum of the refunds that are pending or succeeded, in minor units.
    pub refunded_minor: i64,
    /// Captured and not refunded, in minor units, fees and sold tickets included.
    pub left_minor: i64,
}

/// Counts the refunds of an event.
pub(crate) async fn progress(pool: &PgPool, event_id: EventId) -> Result<Progress, sqlx::Error> {
    sqlx::query_as!(
        Progress,
        r#"select
             (select count(*) from booking.public_bookings b
              where b.event_id = $1 and b.state in ('held', 'confirmed')) as "bookings_left!",
             count(r.id) filter (where r.state = 'pending') as "pending!",
             count(r.id) filter (where r.state = 'succeeded') as "succeeded!",
             count(r.id) filter (where r.state = 'failed') as "failed!",
             (select coalesce(sum(q.refunded_minor), 0)::bigint from payment.payments q where q.event_id = $1)
                 as "refunded_minor!",
             (select coalesce(sum(q.captured_minor - q.refunded_minor), 0)::bigint
              from payment.payments q where q.event_id = $1) as "left_minor!"
           from payment.payments p left join payment.refunds r using (booking_id)
           where p.event_id = $1"#,
        event_id.0
    )
    .fetch_one(pool)
    .await
}

/// Cancelled bookings of an event with a failed refund and money left to refund.
pub(crate) async fn failed_of(
    pool: &PgPool,
    event_id: EventId,
) -> Result<Vec<BookingId>, sqlx::Error> {
    let ids = sqlx::query_scalar!(
        r#"select p.booking_id from payment.payments p
           where p.event_id = $1 and p.state = 'captured'
             and p.refunded_minor + p.kept_minor < p.captured_minor
             and exists (select from payment.refunds r
                         where r.booking_id = p.booking_id and r.state = 'failed')
             and not exists (select from booking.public_bookings b
                             where b.id = p.booking_id and b.state in ('held', 'confirmed'))"#,
        event_id.0
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(BookingId).collect())
}
