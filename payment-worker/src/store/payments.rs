//! One payment per booking.

use chrono::{DateTime, Utc};
use domain::booking::BookingFacts;
use domain::payment::{PaymentState, VoidReason, machine};
use domain::{BookingId, Currency, Money};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::stripe::Intent;

/// A payment as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Payment {
    /// The booking it is for.
    pub booking_id: BookingId,
    /// The event; absent when a void came before its hold.
    pub event_id: Option<i64>,
    /// The buyer; absent like the event.
    pub account_id: Option<i64>,
    /// What is due.
    pub amount: Money,
    /// Where it stands.
    pub state: PaymentState,
    /// Stripe's PaymentIntent, once it exists.
    pub intent_id: Option<String>,
    /// Why it is to be given up, once that was asked.
    pub void_reason: Option<VoidReason>,
    /// What was captured, in minor units.
    pub captured_minor: i64,
    /// What went back or is going back, in minor units.
    pub refunded_minor: i64,
    /// What the event's policy does not give back, in minor units.
    pub kept_minor: i64,
    /// Stripe's last word on a declined attempt or an impossible capture.
    pub last_error: Option<String>,
}

impl Payment {
    /// Where it stands, with what is known there.
    #[must_use]
    pub(crate) fn standing(&self) -> machine::Payment {
        match self.state {
            PaymentState::Pending => machine::Payment::Pending,
            PaymentState::RequiresAction => machine::Payment::RequiresAction,
            PaymentState::Authorised => machine::Payment::Authorised,
            PaymentState::Captured => machine::Payment::Captured(machine::Money {
                taken: self.captured_minor,
                refunded: self.refunded_minor,
            }),
            PaymentState::Failed => machine::Payment::Failed {
                reason: self.last_error.clone().unwrap_or_default(),
            },
            PaymentState::Voided => machine::Payment::Voided,
        }
    }

    /// What could still go back, in minor units.
    #[must_use]
    pub(crate) fn left_minor(&self) -> i64 {
        self.captured_minor - self.refunded_minor
    }
}

struct Row {
    booking_id: Uuid,
    event_id: Option<i64>,
    account_id: Option<i64>,
    amount_minor: i64,
    currency: String,
    state: String,
    intent_id: Option<String>,
    void_reason: Option<String>,
    captured_minor: i64,
    refunded_minor: i64,
    kept_minor: i64,
    last_error: Option<String>,
}

impl From<Row> for Payment {
    fn from(row: Row) -> Self {
        let currency = Currency::try_from(row.currency).expect("the table has a check");
        Self {
            booking_id: BookingId(row.booking_id),
            event_id: row.event_id,
            account_id: row.account_id,
            amount: Money::new(row.amount_minor, currency),
            state: PaymentState::parse(&row.state).expect("the table has a check"),
            intent_id: row.intent_id,
            void_reason: row
                .void_reason
                .map(|word| VoidReason::parse(&word).expect("the table has a check")),
            captured_minor: row.captured_minor,
            refunded_minor: row.refunded_minor,
            kept_minor: row.kept_minor,
            last_error: row.last_error,
        }
    }
}

/// The booking's payment, locked until the transaction ends.
pub(crate) async fn lock(
    conn: &mut PgConnection,
    booking_id: BookingId,
) -> Result<Option<Payment>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        "select booking_id, event_id, account_id, amount_minor, currency, state, intent_id,
                void_reason, captured_minor, refunded_minor, kept_minor, last_error
         from payment.payments where booking_id = $1 for update",
        booking_id.0,
    );
    Ok(row.fetch_optional(conn).await?.map(Payment::from))
}

/// The booking whose payment has this PaymentIntent.
pub(crate) async fn booking_of(
    conn: &mut PgConnection,
    intent_id: &str,
) -> Result<Option<BookingId>, sqlx::Error> {
    let id = sqlx::query_scalar!(
        "select booking_id from payment.payments where intent_id = $1",
        intent_id
    );
    Ok(id.fetch_optional(conn).await?.map(BookingId))
}

/// Adds a payment that is due; `false` when the booking has one, or a void came first.
pub(crate) async fn insert_due(
    conn: &mut PgConnection,
    booking: &BookingFacts,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "insert into payment.payments
             (booking_id, event_id, account_id, amount_minor, currency, state,
              created_at, updated_at, checked_at)
         values ($1, $2, $3, $4, $5, 'pending', $6, $6, $6)
         on conflict (booking_id) do nothing",
        booking.booking_id.0,
        booking.event_id.0,
        booking.account_id.0,
        booking.total.amount_minor,
        booking.total.currency.as_str(),
        now,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// Leaves a mark for a booking that was given up before its hold was heard of; `false` when the
/// booking has a payment.
pub(crate) async fn insert_voided(
    conn: &mut PgConnection,
    booking_id: BookingId,
    reason: VoidReason,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "insert into payment.payments
             (booking_id, state, void_reason, created_at, updated_at, checked_at)
         values ($1, 'voided', $2, $3, $3, $3)
         on conflict (booking_id) do nothing",
        booking_id.0,
        reason.as_str(),
        now,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// Notes the PaymentIntent; `false` when the payment has another one.
pub(crate) async fn set_intent(
    conn: &mut PgConnection,
    booking_id: BookingId,
    intent: &Intent,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update payment.payments
         set intent_id = $2, client_secret = coalesce($3, client_secret), updated_at = $4
         where booking_id = $1 and (intent_id is null or intent_id = $2)",
        booking_id.0,
        intent.id,
        intent.client_secret,
        now,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// Moves a payment on from where it was read; `false` when it is not there any more.
pub(crate) async fn advance(
    conn: &mut PgConnection,
    payment: &Payment,
    to: &machine::Payment,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let (taken, error) = match to {
        machine::Payment::Captured(money) => (Some(money.taken), None),
        machine::Payment::Failed { reason } => (None, Some(reason.as_str())),
        _ => (None, None),
    };
    let done = sqlx::query!(
        "update payment.payments
         set state = $3, captured_minor = coalesce($4, captured_minor),
             last_error = coalesce($5, last_error), updated_at = $6
         where booking_id = $1 and state = $2",
        payment.booking_id.0,
        payment.state.as_str(),
        to.state().as_str(),
        taken,
        error,
        now,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// Notes how far the buyer is; only while the payment is due.
pub(crate) async fn set_progress(
    conn: &mut PgConnection,
    booking_id: BookingId,
    state: PaymentState,
    error: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "update payment.payments set state = $2, last_error = $3, updated_at = $4
         where booking_id = $1 and state in ('pending', 'requires_action')
           and (state, last_error) is distinct from ($2, $3)",
        booking_id.0,
        state.as_str(),
        error,
        now,
    );
    done.execute(conn).await.map(|_| ())
}

/// Notes why the payment is to be given up. A cancellation is never taken back by the end of the
/// hold.
pub(crate) async fn set_void_reason(
    conn: &mut PgConnection,
    booking_id: BookingId,
    reason: VoidReason,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "update payment.payments set void_reason = $2, updated_at = $3
         where booking_id = $1 and void_reason is distinct from 'cancelled'
           and void_reason is distinct from $2",
        booking_id.0,
        reason.as_str(),
        now,
    );
    done.execute(conn).await.map(|_| ())
}

/// Sets an amount aside for a refund; `false` when more would go back than was captured (I11).
pub(crate) async fn reserve_refund(
    conn: &mut PgConnection,
    booking_id: BookingId,
    amount_minor: i64,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update payment.payments
         set refunded_minor = refunded_minor + $2,
             kept_minor = least(kept_minor, captured_minor - refunded_minor - $2), updated_at = $3
         where booking_id = $1 and state = 'captured' and refunded_minor + $2 <= captured_minor",
        booking_id.0,
        amount_minor,
        now,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// Notes what a cancelled booking's policy does not give back.
pub(crate) async fn set_kept(
    conn: &mut PgConnection,
    booking_id: BookingId,
    kept_minor: i64,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "update payment.payments set kept_minor = $2, updated_at = $3
         where booking_id = $1 and kept_minor <> $2",
        booking_id.0,
        kept_minor,
        now,
    );
    done.execute(conn).await.map(|_| ())
}

/// Takes back what was set aside for a refund that failed.
pub(crate) async fn release_refund(
    conn: &mut PgConnection,
    booking_id: BookingId,
    amount_minor: i64,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "update payment.payments set refunded_minor = refunded_minor - $2, updated_at = $3
         where booking_id = $1",
        booking_id.0,
        amount_minor,
        now,
    );
    done.execute(conn).await.map(|_| ())
}

/// Up to `limit` unsettled PaymentIntents that were not compared with Stripe since `before`; they
/// count as compared at `now`, so that two workers don't take the same.
pub(crate) async fn claim_unsettled(
    pool: &PgPool,
    before: DateTime<Utc>,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"update payment.payments set checked_at = $3
         where booking_id in (
             select booking_id from payment.payments
             where intent_id is not null and state in ('pending', 'requires_action', 'authorised')
               and checked_at < $1
             order by checked_at limit $2
             for update skip locked)
         returning intent_id as "intent_id!""#,
        before,
        limit,
        now,
    )
    .fetch_all(pool)
    .await
}
