//! Tickets exist: take the money.

use chrono::{DateTime, Utc};
use domain::message::{BookingConfirmed, PaymentFailed};
use domain::payment::{PaymentState, VoidReason};
use sqlx::PgConnection;

use super::{Done, Effect};
use crate::operations::Request;
use crate::store::{operations, payments};
use crate::transitions;

impl Effect for BookingConfirmed {
    async fn apply(
        &self,
        conn: &mut PgConnection,
        now: DateTime<Utc>,
    ) -> Result<Done, sqlx::Error> {
        let booking_id = self.booking.booking_id;
        if self.booking.total.is_zero() {
            return Ok(Done::Yes);
        }
        let Some(payment) = payments::lock(conn, booking_id).await? else {
            return Ok(Done::TooEarly);
        };
        match payment.state {
            PaymentState::Pending | PaymentState::RequiresAction => return Ok(Done::TooEarly),
            // A cancellation overtook this message, and gives the money back.
            PaymentState::Authorised if payment.void_reason == Some(VoidReason::Cancelled) => {}
            PaymentState::Authorised => {
                let request = Request::Capture {
                    amount_minor: payment.amount.amount_minor,
                };
                operations::insert(conn, booking_id, &request, now, now).await?;
            }
            // Said again, because it may have been said before the booking was confirmed.
            PaymentState::Captured => {
                transitions::tell_captured(conn, &payment, payment.captured_minor).await?;
            }
            PaymentState::Failed | PaymentState::Voided => {
                let reason = format!("the payment is {}", payment.state.as_str());
                transitions::tell(conn, &PaymentFailed { booking_id, reason }).await?;
            }
        }
        Ok(Done::Yes)
    }
}
