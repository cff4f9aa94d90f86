//! A booking with tickets was given up: its money is not taken, or goes back.

use chrono::{DateTime, Utc};
use domain::message::BookingCancelled;
use domain::payment::{PaymentState, VoidReason};
use sqlx::PgConnection;

use super::void::release;
use super::{Done, Effect};
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
                transitions::refund_cancelled(conn, &payment, kept, now).await?;
            }
            PaymentState::Pending | PaymentState::RequiresAction | PaymentState::Authorised => {
                release(conn, &payment, VoidReason::Cancelled, now).await?;
            }
            PaymentState::Failed | PaymentState::Voided => {}
        }
        Ok(Done::Yes)
    }
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
    Ok(policy.kept(payment.captured_minor, asked.at))
}
