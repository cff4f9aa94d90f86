//! The buyer, or staff, gives a booking up.

use chrono::{DateTime, Utc};
use domain::booking::BookingState;
use domain::message::{Outcome, VoidPayment};
use domain::payment::VoidReason;
use domain::{AccountId, BookingId};
use platform::outbox;
use sqlx::PgConnection;

use crate::OWNER;
use crate::end::cancel_confirmed;
use crate::store::bookings::{self, Standing};

/// Cancels a confirmed booking; begins to cancel a held one, whose seats stay held until no payment
/// can come. A repeat gives the same outcome.
pub(crate) async fn cancel(
    conn: &mut PgConnection,
    id: BookingId,
    asked_by: Option<AccountId>,
    now: DateTime<Utc>,
) -> Result<Outcome, sqlx::Error> {
    if bookings::begin_cancel(conn, id, now).await? {
        let void = VoidPayment {
            booking_id: id,
            reason: VoidReason::Cancelled,
        };
        outbox::put(conn, OWNER, &void).await?;
        return Ok(Outcome::Cancelled);
    }
    if cancel_confirmed(conn, id, asked_by, now).await? {
        return Ok(Outcome::Cancelled);
    }
    Ok(match bookings::standings(conn, &[id]).await?.remove(&id) {
        // Requests and cancellations share one ordered queue, so nobody asked for this booking.
        None => Outcome::Refused(BookingState::Requested),
        Some(Standing::Held { .. } | Standing::Cancelled) => Outcome::Cancelled,
        Some(Standing::Confirmed(_)) => Outcome::Refused(BookingState::Confirmed),
        Some(Standing::Rejected(_)) => Outcome::Refused(BookingState::Rejected),
        Some(Standing::Expired) => Outcome::Refused(BookingState::Expired),
    })
}
