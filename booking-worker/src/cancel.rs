//! The buyer, or staff, gives a booking up.

use chrono::{DateTime, Utc};
use domain::booking::{Booking, BookingState, CancelRefusal};
use domain::message::VoidPayment;
use domain::payment::VoidReason;
use domain::{AccountId, BookingId};
use platform::outbox::{Entry, Kept};
use serde_json::json;
use sqlx::PgConnection;

use crate::audit;
use crate::end::cancel_confirmed;
use crate::store::{bookings, tickets};

/// What a cancellation came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancellation {
    /// It is done, or certain to be.
    Done,
    /// The booking's state does not allow it.
    Refused(BookingState),
    /// The booking is confirmed, and stays so for this reason.
    Kept(CancelRefusal),
    /// No worker has decided the booking: its request may still be on its way, in a retry queue.
    Undecided,
}

/// Cancels a confirmed booking; begins to cancel a held one, whose seats stay held until no payment
/// can come. A confirmed one is kept when somebody was let in with one of its tickets, and from its
/// buyer also when one was transferred, or the event has begun; unless it is the event that is
/// cancelled. A repeat has the same outcome.
pub(crate) async fn cancel(
    conn: &mut PgConnection,
    id: BookingId,
    asked_by: Option<AccountId>,
    now: DateTime<Utc>,
    kept: &mut Kept,
) -> Result<Cancellation, sqlx::Error> {
    if let Some(buyer) = bookings::begin_cancel(conn, id, now).await? {
        let void = VoidPayment {
            booking_id: id,
            reason: VoidReason::Cancelled,
        };
        kept.put_all(conn, vec![Entry::new(&void)?]).await?;
        note(conn, id, asked_by, buyer, now, kept).await?;
        return Ok(Cancellation::Done);
    }
    // When the event is off, whoever was let in gets the money back, too.
    if let Some(by) = asked_by
        && let Some(refusal) = tickets::bind(conn, id, by, now).await?
    {
        return Ok(Cancellation::Kept(refusal));
    }
    if let Some(buyer) = cancel_confirmed(conn, id, asked_by, now, kept).await? {
        note(conn, id, asked_by, buyer, now, kept).await?;
        return Ok(Cancellation::Done);
    }
    Ok(match bookings::read(conn, &[id]).await?.remove(&id) {
        Some(Booking::Held { .. } | Booking::Cancelled(_)) => Cancellation::Done,
        Some(booking) => Cancellation::Refused(booking.state()),
        None => Cancellation::Undecided,
    })
}

/// Notes in the audit log that somebody else than the buyer gave the booking up.
async fn note(
    conn: &mut PgConnection,
    id: BookingId,
    asked_by: Option<AccountId>,
    buyer: AccountId,
    now: DateTime<Utc>,
    kept: &mut Kept,
) -> Result<(), sqlx::Error> {
    let Some(by) = asked_by.filter(|by| *by != buyer) else {
        return Ok(());
    };
    let detail = json!({ "account_id": buyer });
    let note = audit::note(by, "booking.cancel", format!("booking:{id}"), detail, now);
    kept.put_all(conn, vec![Entry::new(&note)?]).await
}
