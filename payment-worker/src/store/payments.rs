//! Payments, one per booking.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use domain::booking::BookingFacts;
use domain::payment::{PaymentState, VoidReason, machine};
use domain::{AccountId, BookingId, Currency, EventId, Money};
use platform::pg::BrokenInvariant;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::known;
use crate::stripe::Intent;

#[derive(Debug, Clone)]
pub(crate) struct Payment {
    pub booking_id: BookingId,
    /// The event; `None` when a void came before its hold.
    pub event_id: Option<EventId>,
    /// The buyer; `None` like the event.
    pub account_id: Option<AccountId>,
    /// Amount due.
    pub amount: Money,
    pub state: PaymentState,
    /// Stripe's PaymentIntent, once it exists.
    pub intent_id: Option<String>,
    /// Why it is to be released, once that was requested.
    pub void_reason: Option<VoidReason>,
    /// In minor units.
    pub captured_minor: i64,
    /// Sum of the refunds that are pending or succeeded, in minor units.
    pub refunded_minor: i64,
    /// Amount retained by the event's policy, in minor units.
    pub kept_minor: i64,
    /// Amount the policy is to retain, decided at the cancellation, in minor units.
    pub kept_on_cancel_minor: Option<i64>,
    /// The error of a declined attempt or a failed capture.
    pub last_error: Option<String>,
}

impl Payment {
    /// The state with its data.
    #[must_use]
    pub(crate) fn standing(&self) -> machine::Payment {
        match self.state {
            PaymentState::Pending => machine::Payment::Pending,
            PaymentState::RequiresAction => machine::Payment::RequiresAction,
            PaymentState::Authorised => machine::Payment::Authorised,
            PaymentState::Captured => machine::Payment::Captured(machine::Captured {
                taken: self.captured_minor,
                refunded: self.refunded_minor,
            }),
            PaymentState::Failed => machine::Payment::Failed {
                reason: self.last_error.clone().unwrap_or_default(),
            },
            PaymentState::Voided => machine::Payment::Voided,
        }
    }

    /// `true` if Stripe refused to create its PaymentIntent, regardless of the payer.
    #[must_use]
    pub(crate) fn is_refused(&self) -> bool {
        self.state == PaymentState::Failed && self.intent_id.is_none()
    }

    /// `true` if its booking is cancelled, so that the money is released or refunded.
    #[must_use]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.void_reason == Some(VoidReason::Cancelled)
    }

    /// Refundable rest, in minor units.
    #[must_use]
    pub(crate) fn left_minor(&self) -> i64 {
        self.captured_minor - self.refunded_minor
    }
}

/// What a move makes of a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub to: machine::Payment,
    /// Replaces the error of the payment.
    pub last_error: Option<String>,
}

impl Change {
    /// Returns `true` if the payment is not so already.
    #[must_use]
    pub(crate) fn differs_from(&self, payment: &Payment) -> bool {
        self.to.state() != payment.state || self.last_error != payment.last_error
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
    kept_on_cancel_minor: Option<i64>,
    last_error: Option<String>,
}

impl TryFrom<Row> for Payment {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        let currency = Currency::try_from(row.currency).expect("the table has a check");
        Ok(Self {
            booking_id: BookingId(row.booking_id),
            event_id: row.event_id.map(EventId),
            account_id: row.account_id.map(AccountId),
            amount: Money::new(row.amount_minor, currency),
            state: known(&row.state, PaymentState::parse)?,
            intent_id: row.intent_id,
            void_reason: match &row.void_reason {
                Some(word) => Some(known(word, VoidReason::parse)?),
                None => None,
            },
            captured_minor: row.captured_minor,
            refunded_minor: row.refunded_minor,
            kept_minor: row.kept_minor,
            kept_on_cancel_minor: row.kept_on_cancel_minor,
            last_error: row.last_error,
        })
    }
}

/// Locks a booking's payment until the end of the transaction.
pub(crate) async fn lock(
    conn: &mut PgConnection,
    booking_id: BookingId,
) -> Result<Option<Payment>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        "select booking_id, event_id, account_id, amount_minor, currency, state, intent_id,
                void_reason, captured_minor, refunded_minor, kept_minor, kept_on_cancel_minor,
                last_error
         from payment.payments where booking_id = $1 for update",
        booking_id.0,
    );
    row.fetch_optional(conn)
        .await?
        .map(Payment::try_from)
        .transpose()
}

/// Locks the payments of these bookings until the end of the transaction, in the order of their
/// ids.
pub(crate) async fn lock_all(
    conn: &mut PgConnection,
    booking_ids: &[BookingId],
) -> Result<HashMap<BookingId, Payment>, sqlx::Error> {
    let ids: Vec<_> = booking_ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as!(
        Row,
        "select booking_id, event_id, account_id, amount_minor, currency, state, intent_id,
                void_reason, captured_minor, refunded_minor, kept_minor, kept_on_cancel_minor,
                last_error
         from payment.payments where booking_id = any($1) order by booking_id for update",
        &ids,
    )
    .fetch_all(conn)
    .await?;
    let payments = rows.into_iter().map(Payment::try_from);
    payments
        .map(|payment| payment.map(|payment| (payment.booking_id, payment)))
        .collect()
}

/// Payment of a booking, for previews of its refund.
#[derive(Debug, Clone)]
pub(crate) struct Paid {
    pub event_id: EventId,
    pub account_id: AccountId,
    /// Captured, or authorised for its tickets, in minor units; 0 without tickets.
    pub taken_minor: i64,
    /// Sum of the refunds that are pending or succeeded, in minor units.
    pub refunded_minor: i64,
    /// The currency of both.
    pub currency: String,
}

/// Returns the payment of a booking; `None` when there is no such booking.
pub(crate) async fn paid(
    pool: &PgPool,
    booking_id: BookingId,
) -> Result<Option<Paid>, sqlx::Error> {
    sqlx::query_as!(
        Paid,
        r#"select b.event_id as "event_id!", b.account_id as "account_id!", b.currency as "currency!",
                  case when p.state = 'captured' then p.captured_minor - p.kept_minor
                       when p.state = 'authorised' and b.state = 'confirmed' then p.amount_minor
                       else 0 end as "taken_minor!",
                  coalesce(p.refunded_minor, 0) as "refunded_minor!"
           from booking.public_bookings b left join payment.payments p on p.booking_id = b.id
           where b.id = $1"#,
        booking_id.0,
    )
    .fetch_optional(pool)
    .await
}

/// The bookings of these PaymentIntents; unknown ones are absent.
pub(crate) async fn bookings_of(
    conn: &mut PgConnection,
    intent_ids: &[String],
) -> Result<HashMap<String, BookingId>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select intent_id as "intent_id!", booking_id from payment.payments
           where intent_id = any($1)"#,
        intent_ids,
    )
    .fetch_all(conn)
    .await?;
    let pairs = rows
        .into_iter()
        .map(|row| (row.intent_id, BookingId(row.booking_id)));
    Ok(pairs.collect())
}

/// The booking of this PaymentIntent.
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

/// Inserts payments that are due; returns those inserted, without bookings that have one or were
/// voided first.
pub(crate) async fn insert_due(
    conn: &mut PgConnection,
    bookings: &[&BookingFacts],
    now: DateTime<Utc>,
) -> Result<HashSet<BookingId>, sqlx::Error> {
    let ids: Vec<_> = bookings.iter().map(|b| b.booking_id.0).collect();
    let events: Vec<_> = bookings.iter().map(|b| b.event_id.0).collect();
    let accounts: Vec<_> = bookings.iter().map(|b| b.account_id.0).collect();
    let amounts: Vec<_> = bookings.iter().map(|b| b.total.amount_minor).collect();
    let currencies: Vec<_> = bookings
        .iter()
        .map(|b| b.total.currency.as_str().to_owned())
        .collect();
    let added = sqlx::query_scalar!(
        "insert into payment.payments
             (booking_id, event_id, account_id, amount_minor, currency, state,
              created_at, updated_at, checked_at)
         select booking_id, event_id, account_id, amount_minor, currency, 'pending', $6, $6, $6
         from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::text[])
              as new (booking_id, event_id, account_id, amount_minor, currency)
         order by booking_id
         on conflict (booking_id) do nothing
         returning booking_id",
        &ids,
        &events,
        &accounts,
        &amounts,
        &currencies,
        now,
    )
    .fetch_all(conn)
    .await?;
    Ok(added.into_iter().map(BookingId).collect())
}

/// Inserts the tombstone of a booking that was voided before its hold arrived; `false` when the
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

/// Records the PaymentIntent; `false` when the payment has another one.
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

/// [`set_intent`] for locked payments that have none, or the same.
pub(crate) async fn set_intents(
    conn: &mut PgConnection,
    intents: &[(BookingId, &Intent)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    if intents.is_empty() {
        return Ok(());
    }
    let bookings: Vec<_> = intents.iter().map(|(booking, _)| booking.0).collect();
    let ids: Vec<_> = intents.iter().map(|(_, i)| i.id.clone()).collect();
    let secrets: Vec<_> = intents
        .iter()
        .map(|(_, i)| i.client_secret.clone())
        .collect();
    let done = sqlx::query!(
        "update payment.payments p
         set intent_id = new.intent_id, client_secret = coalesce(new.client_secret, p.client_secret),
             updated_at = $4
         from unnest($1::uuid[], $2::text[], $3::text[]) as new (booking_id, intent_id, client_secret)
         where p.booking_id = new.booking_id
           and (p.intent_id is null or p.intent_id = new.intent_id)",
        &bookings,
        &ids,
        secrets.as_slice() as &[Option<String>],
        now,
    );
    all(done.execute(conn).await?.rows_affected(), intents.len())
}

/// Moves locked payments from the state they were read in.
pub(crate) async fn advance(
    conn: &mut PgConnection,
    moves: &[(&Payment, &Change)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    if moves.is_empty() {
        return Ok(());
    }
    let bookings: Vec<_> = moves.iter().map(|(from, _)| from.booking_id.0).collect();
    let from: Vec<_> = moves
        .iter()
        .map(|(from, _)| from.state.as_str().to_owned())
        .collect();
    let to: Vec<_> = moves
        .iter()
        .map(|(_, change)| change.to.state().as_str().to_owned())
        .collect();
    let taken: Vec<_> = moves
        .iter()
        .map(|(_, change)| match &change.to {
            machine::Payment::Captured(money) => Some(money.taken),
            _ => None,
        })
        .collect();
    let errors: Vec<_> = moves
        .iter()
        .map(|(_, change)| change.last_error.clone())
        .collect();
    let done = sqlx::query!(
        "update payment.payments p
         set state = new.next, captured_minor = coalesce(new.taken, p.captured_minor),
             last_error = new.error, updated_at = $6
         from unnest($1::uuid[], $2::text[], $3::text[], $4::bigint[], $5::text[])
              as new (booking_id, state, next, taken, error)
         where p.booking_id = new.booking_id and p.state = new.state",
        &bookings,
        &from,
        &to,
        taken.as_slice() as &[Option<i64>],
        errors.as_slice() as &[Option<String>],
        now,
    );
    all(done.execute(conn).await?.rows_affected(), moves.len())
}

/// Locked rows can't have changed: all are updated, or the transaction must fail.
fn all(changed: u64, expected: usize) -> Result<(), sqlx::Error> {
    if usize::try_from(changed) == Ok(expected) {
        Ok(())
    } else {
        Err(BrokenInvariant("a locked payment stays in its state").into())
    }
}

/// Records why the payment is to be released; `false` when that was recorded before. A cancellation
/// is never replaced by the end of the hold.
pub(crate) async fn set_void_reason(
    conn: &mut PgConnection,
    booking_id: BookingId,
    reason: VoidReason,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update payment.payments set void_reason = $2, updated_at = $3
         where booking_id = $1 and void_reason is distinct from 'cancelled'
           and void_reason is distinct from $2",
        booking_id.0,
        reason.as_str(),
        now,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// Reserves an amount for a refund; `false` when the sum would exceed what was captured (I11).
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

/// Records the amount that the policy of a cancelled booking retains.
pub(crate) async fn set_fee(
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

/// Records the retained part of a cancelled booking's payment, once; returns the one recorded
/// first.
pub(crate) async fn decide_fee(
    conn: &mut PgConnection,
    booking_id: BookingId,
    kept_minor: i64,
    now: DateTime<Utc>,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"update payment.payments
           set kept_on_cancel_minor = coalesce(kept_on_cancel_minor, $2), updated_at = $3
           where booking_id = $1
           returning kept_on_cancel_minor as "kept!""#,
        booking_id.0,
        kept_minor,
        now,
    )
    .fetch_one(conn)
    .await
}

/// [`set_void_reason`] for locked payments.
pub(crate) async fn set_void_reasons(
    conn: &mut PgConnection,
    voids: &[(BookingId, VoidReason)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let bookings: Vec<_> = voids.iter().map(|(booking, _)| booking.0).collect();
    let reasons: Vec<_> = voids
        .iter()
        .map(|(_, reason)| reason.as_str().to_owned())
        .collect();
    let done = sqlx::query!(
        "update payment.payments p set void_reason = new.reason, updated_at = $3
         from unnest($1::uuid[], $2::text[]) as new (booking_id, reason)
         where p.booking_id = new.booking_id and p.void_reason is distinct from 'cancelled'
           and p.void_reason is distinct from new.reason",
        &bookings,
        &reasons,
        now,
    );
    done.execute(conn).await.map(|_| ())
}

/// Releases what was reserved for a refund that failed.
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

/// State and captured amount by PaymentIntent, read without locks; unknown ones, and those in a
/// state of a later version, are absent.
pub(crate) async fn standing_of(
    pool: &PgPool,
    intent_ids: &[String],
) -> Result<HashMap<String, (PaymentState, Money)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select intent_id as "intent_id!", state, captured_minor, currency from payment.payments
           where intent_id = any($1)"#,
        intent_ids,
    )
    .fetch_all(pool)
    .await?;
    let standing = rows.into_iter().filter_map(|row| {
        let state = PaymentState::parse(&row.state)?;
        let currency = Currency::try_from(row.currency).expect("the table has a check");
        let captured = Money::new(row.captured_minor, currency);
        Some((row.intent_id, (state, captured)))
    });
    Ok(standing.collect())
}

/// When the oldest unsettled payment with a PaymentIntent was created.
pub(crate) async fn oldest_unsettled(pool: &PgPool) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar!(
        "select min(created_at) from payment.payments
         where intent_id is not null and state in ('pending', 'requires_action', 'authorised')"
    )
    .fetch_one(pool)
    .await
}

/// Claims up to `limit` unsettled PaymentIntents that were not compared with Stripe since `before`;
/// they count as compared at `now`, so that no other worker takes them.
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
