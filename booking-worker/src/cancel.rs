//! The buyer, or staff, gives a booking up.

use chrono::{DateTime, Utc};
use domain::booking::{Booking, BookingState};
use domain::message::{Outcome, VoidPayment};
use domain::payment::VoidReason;
use domain::{AccountId, BookingId};
use platform::outbox::{Entry, Kept};
use sqlx::PgConnection;

use crate::end::cancel_confirmed;
use crate::store::{bookings, tickets};

/// Cancels a confirmed booking; begins to cancel a held one, whose seats stay held until no payment
/// can come; refuses when somebody was let in with one of its tickets, or the buyer has
/// transferred one, unless it is the event that is cancelled. A repeat gives the same outcome.
pub(crate) async fn cancel(
    conn: &mut PgConnection,
    id: BookingId,
    asked_by: Option<AccountId>,
    now: DateTime<Utc>,
    kept: &mut Kept,
) -> Result<Outcome, sqlx::Error> {
    if bookings::begin_cancel(conn, id, now).await? {
        let void = VoidPayment {
            booking_id: id,
            reason: VoidReason::Cancelled,
        };
        kept.put_all(conn, vec![Entry::new(&void)?]).await?;
        return Ok(Outcome::Cancelled);
    }
    // When the event is off, whoever was let in gets the money back, too.
    if let Some(by) = asked_by
        && tickets::bind(conn, id, by).await?
    {
        return Ok(Outcome::Refused(BookingState::Confirmed));
    }
    if cancel_confirmed(conn, id, asked_by, now, kept).await? {
        return Ok(Outcome::Cancelled);
    }
    Ok(match bookings::read(conn, &[id]).await?.remove(&id) {
        Some(Booking::Held { .. } | Booking::Cancelled(_)) => Outcome::Cancelled,
        Some(booking) => Outcome::Refused(booking.state()),
        // Requests and cancellations share one ordered queue, so nobody asked for this booking.
        None => Outcome::Refused(BookingState::Requested),
    })
}
