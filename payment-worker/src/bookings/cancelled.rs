//! A booking with tickets was given up: its money is not taken, or goes back.

use chrono::{DateTime, Utc};
use domain::message::BookingCancelled;
use domain::payment::{PaymentState, VoidReason};
use sqlx::PgConnection;

use super::void::release;
use super::{Done, Effect};
use crate::store::payments;
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
                transitions::refund_cancelled(conn, &payment, payment.captured_minor, now).await?;
            }
            PaymentState::Pending | PaymentState::RequiresAction | PaymentState::Authorised => {
                release(conn, &payment, VoidReason::Cancelled, now).await?;
            }
            PaymentState::Failed | PaymentState::Voided => {}
        }
        Ok(Done::Yes)
    }
}
