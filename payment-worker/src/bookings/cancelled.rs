//! Handles `booking.cancelled`: the money of a booking with tickets is released or refunded.

use chrono::{DateTime, Utc};
use domain::message::{BookingCancelled, CancelAsked};
use domain::payment::{PaymentState, VoidReason};
use domain::{EventId, Money};
use serde_json::json;
use sqlx::PgConnection;

use super::confirmed::capture;
use super::void::release;
use super::{Done, Effect};
use crate::audit;
use crate::store::payments::{self, Payment};
use crate::store::{operations, policies};
use crate::transitions;

impl Effect for BookingCancelled {
    async fn apply(
        &self,
        conn: &mut PgConnection,
        now: DateTime<Utc>,
    ) -> Result<Done, sqlx::Error> {
        let booking = &self.booking;
        if !self.was_confirmed || booking.total.is_zero() {
            return Ok(Done::Yes);
        }
        let Some(payment) = payments::lock(conn, booking.booking_id).await? else {
            return Ok(Done::TooEarly);
        };
        give_back(conn, &payment, self.asked, now).await?;
        Ok(Done::Yes)
    }
}

/// Releases or refunds the money of a cancelled booking, less what its event's policy retains when
/// the buyer cancels; `false` when that was done before. The payment is locked.
pub(crate) async fn give_back(
    conn: &mut PgConnection,
    payment: &Payment,
    asked: Option<CancelAsked>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    match payment.state {
        PaymentState::Captured => refund(conn, payment, asked, now).await,
        PaymentState::Pending | PaymentState::RequiresAction => {
            release(conn, payment, VoidReason::Cancelled, now).await
        }
        PaymentState::Authorised => {
            let fee = decide(conn, payment, payment.amount, asked, now).await?;
            if fee == 0 {
                return release(conn, payment, VoidReason::Cancelled, now).await;
            }
            // The fee is due however late the capture is: all is captured, and the rest refunded
            // then.
            let (id, reason) = (payment.booking_id, VoidReason::Cancelled);
            let is_new = payments::set_void_reason(conn, id, reason, now).await?;
            Ok(operations::insert(conn, id, &capture(payment), now, now).await? || is_new)
        }
        PaymentState::Failed | PaymentState::Voided => Ok(false),
    }
}

/// Requests the refund of a cancelled booking's captured amount, less the part that the policy
/// retains; `false` when that was decided before and nothing is requested now.
pub(crate) async fn refund(
    conn: &mut PgConnection,
    payment: &Payment,
    asked: Option<CancelAsked>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let paid = Money::new(payment.captured_minor, payment.amount.currency);
    let fee = decide(conn, payment, paid, asked, now).await?;
    let begun = transitions::refund_cancelled(conn, payment, fee, now).await?;
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
async fn decide(
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
            let policy = policies::get_at(&mut *conn, EventId(event_id), asked.at).await?;
            policy.fee(paid, asked.at)
        }
        _ => 0,
    };
    payments::decide_fee(conn, payment.booking_id, fee, now).await
}

fn is_by_buyer(payment: &Payment, asked: CancelAsked) -> bool {
    payment.account_id == Some(asked.by.0)
}
