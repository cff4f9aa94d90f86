//! Handles `booking.confirmed`: tickets exist, so the money is captured.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use domain::BookingId;
use domain::message::BookingConfirmed;
use domain::payment::PaymentState;
use sqlx::PgConnection;

use super::{Done, Effect};
use crate::messages::{Announcement, announce};
use crate::operation::Request;
use crate::store::operations;
use crate::store::payments::{self, Payment};

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
        take_money(conn, &payment, now).await
    }
}

/// Requests the capture of a confirmed booking, or publishes the outcome of its payment again. The
/// payment is locked.
pub(crate) async fn take_money(
    conn: &mut PgConnection,
    payment: &Payment,
    now: DateTime<Utc>,
) -> Result<Done, sqlx::Error> {
    let booking_id = payment.booking_id;
    match payment.state {
        PaymentState::Pending | PaymentState::RequiresAction => return Ok(Done::TooEarly),
        PaymentState::Authorised => {
            // A cancellation that overtook this message releases the money.
            if payment.is_cancelled()
                || !operations::insert(conn, booking_id, &capture(payment), now, now).await?
            {
                return Ok(Done::Before);
            }
        }
        // Published again, because the first message may have come before the confirmation.
        PaymentState::Captured => {
            announce(
                conn,
                payment,
                Announcement::Captured(payment.captured_minor),
            )
            .await?;
        }
        PaymentState::Failed | PaymentState::Voided => {
            let failed = Announcement::Failed {
                reason: format!("the payment is {}", payment.state.as_str()),
                is_refused: false,
            };
            announce(conn, payment, failed).await?;
        }
    }
    Ok(Done::Yes)
}

/// Requests the captures of those bookings whose payments are authorised and not being released;
/// returns them. The others are handled one by one.
pub(super) async fn capture_authorised(
    conn: &mut PgConnection,
    bookings: &[BookingId],
    now: DateTime<Utc>,
) -> Result<HashSet<BookingId>, sqlx::Error> {
    let payments = payments::lock_all(conn, bookings).await?;
    let requests: Vec<_> = payments
        .values()
        .filter(|payment| payment.state == PaymentState::Authorised && !payment.is_cancelled())
        .map(|payment| (payment.booking_id, capture(payment)))
        .collect();
    let asked: Vec<_> = requests
        .iter()
        .map(|(id, request)| (*id, request))
        .collect();
    operations::insert_all(conn, &asked, now, now).await?;
    Ok(requests.into_iter().map(|(id, _)| id).collect())
}

/// The request that captures all that is due.
pub(super) fn capture(payment: &Payment) -> Request {
    Request::Capture {
        amount_minor: payment.amount.amount_minor,
        currency: Some(payment.amount.currency),
    }
}
