//! What goes back when a booking is cancelled: all that was captured, less the part that the
//! event's policy retains from its buyer.

use chrono::{DateTime, Utc};
use domain::message::CancelAsked;
use domain::{BookingId, Money};
use serde_json::json;
use sqlx::PgConnection;

use super::begin;
use crate::audit;
use crate::store::payments::Payment;
use crate::store::refunds as table;
use crate::store::{payments, policies};

/// Occasion of the refund that follows a cancellation: one per booking.
const CANCELLED: &str = "cancelled";

/// Requests the refund of a cancelled booking's captured amount, less the part that the policy
/// retains; `false` when that was decided before and nothing is requested now.
pub(crate) async fn refund_cancelled(
    conn: &mut PgConnection,
    payment: &Payment,
    asked: Option<CancelAsked>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let paid = Money::new(payment.captured_minor, payment.amount.currency);
    let fee = decide_fee(conn, payment, paid, asked, now).await?;
    let begun = begin_cancelled(conn, payment, fee, now).await?;
    let is_new = begun.is_some() || payment.kept_on_cancel_minor.is_none();
    let (Some(amount), Some(asked)) = (begun, asked) else {
        return Ok(is_new);
    };
    let action = if is_by_buyer(payment, asked) {
        "refund.policy"
    } else {
        "refund.cancel"
    };
    let subject = format!("booking:{}", payment.booking_id);
    let detail = json!({ "amount": amount, "kept_minor": fee });
    audit::note(conn, asked.by, action, subject, detail, now).await?;
    Ok(true)
}

/// Returns the part of `paid` that is not refunded: from a buyer who cancelled, by the policy in
/// force at that time; nothing when staff cancelled, or the event is. Decided once.
pub(crate) async fn decide_fee(
    conn: &mut PgConnection,
    payment: &Payment,
    paid: Money,
    asked: Option<CancelAsked>,
    now: DateTime<Utc>,
) -> Result<i64, sqlx::Error> {
    if let Some(fee) = payment.kept_on_cancel_minor {
        return Ok(fee);
    }
    let by_buyer = asked.filter(|asked| is_by_buyer(payment, *asked));
    let fee = match (by_buyer, payment.event_id) {
        (Some(asked), Some(event_id)) => {
            let policy = policies::get_at(&mut *conn, event_id, asked.at).await?;
            policy.fee(paid, asked.at)
        }
        _ => 0,
    };
    payments::decide_fee(conn, payment.booking_id, fee, now).await
}

fn is_by_buyer(payment: &Payment, asked: CancelAsked) -> bool {
    payment.account_id == Some(asked.by)
}

/// Begins the refund of a captured payment whose booking was cancelled, less `fee_minor`, once.
/// Returns the amount, or `None` when nothing begins now.
async fn begin_cancelled(
    conn: &mut PgConnection,
    payment: &Payment,
    fee_minor: i64,
    now: DateTime<Utc>,
) -> Result<Option<Money>, sqlx::Error> {
    let booking_id = payment.booking_id;
    if table::of_occasion(conn, booking_id, CANCELLED)
        .await?
        .is_some()
    {
        return Ok(None);
    }
    let left = payment.left_minor();
    let fee = fee_minor.min(left);
    payments::set_fee(conn, booking_id, fee, now).await?;
    if left == fee {
        return Ok(None);
    }
    let amount = Money::new(left - fee, payment.amount.currency);
    let is_begun = begin(conn, booking_id, amount, CANCELLED, now).await?;
    Ok(is_begun.then_some(amount))
}

/// Begins another refund of what a failed one of a cancelled booking left here; `false` when
/// nothing is left, or a refund is pending.
pub(crate) async fn again(
    conn: &mut PgConnection,
    booking_id: BookingId,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let Some(payment) = payments::lock(conn, booking_id).await? else {
        return Ok(false);
    };
    let left = payment.left_minor() - payment.kept_minor;
    if left <= 0 {
        return Ok(false);
    }
    let amount = Money::new(left, payment.amount.currency);
    let occasion = format!("{CANCELLED} again {}", now.timestamp());
    begin(conn, booking_id, amount, &occasion, now).await
}
