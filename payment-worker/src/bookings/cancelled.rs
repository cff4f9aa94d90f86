//! A booking with tickets was given up: its money is not taken, or goes back.

use chrono::{DateTime, Utc};
use domain::message::BookingCancelled;
use domain::payment::{PaymentState, VoidReason};
use domain::{AccountId, Money};
use serde_json::json;
use sqlx::PgConnection;

use super::void::release;
use super::{Done, Effect};
use crate::audit;
use crate::store::payments::{self, Payment};
use crate::store::policies;
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
        match payment.state {
            PaymentState::Captured => {
                let kept = kept(self, &payment, conn).await?;
                let begun = transitions::refund_cancelled(conn, &payment, kept, now).await?;
                if let (Some(amount), Some(asked)) = (begun, self.asked) {
                    note(self, asked.by, amount, kept, conn, now).await?;
                }
            }
            PaymentState::Pending | PaymentState::RequiresAction | PaymentState::Authorised => {
                release(conn, &payment, VoidReason::Cancelled, now).await?;
            }
            PaymentState::Failed | PaymentState::Voided => {}
        }
        Ok(Done::Yes)
    }
}

/// Tells the audit log of a refund by the event's policy, or by staff who cancelled the booking.
async fn note(
    cancelled: &BookingCancelled,
    by: AccountId,
    amount: Money,
    kept_minor: i64,
    conn: &mut PgConnection,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let action = if by == cancelled.booking.account_id {
        "refund.policy"
    } else {
        "refund.cancel"
    };
    let subject = format!("booking:{}", cancelled.booking.booking_id);
    let detail = json!({ "amount": amount, "kept_minor": kept_minor });
    audit::note(conn, by, action, subject, detail, now).await
}

/// What is kept from a buyer who gave the booking up; nothing when staff did, or the event is
/// cancelled.
async fn kept(
    cancelled: &BookingCancelled,
    payment: &Payment,
    conn: &mut PgConnection,
) -> Result<i64, sqlx::Error> {
    let booking = &cancelled.booking;
    let by_buyer = cancelled
        .asked
        .filter(|asked| asked.by == booking.account_id);
    let Some(asked) = by_buyer else { return Ok(0) };
    let policy = policies::get(conn, booking.event_id).await?;
    let paid = Money::new(payment.captured_minor, payment.amount.currency);
    Ok(policy.kept(paid, asked.at))
}
