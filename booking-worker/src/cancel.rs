//! Cancellation of a booking by its buyer or by staff.

use chrono::{DateTime, Utc};
use domain::booking::{Booking, BookingState, CancelRefusal};
use domain::message::{AuditNoted, VoidPayment};
use domain::payment::VoidReason;
use domain::{AccountId, BookingId};
use platform::outbox::{Entry, Staged};
use serde_json::json;
use sqlx::PgConnection;

use crate::end::cancel_confirmed;
use crate::store::{bookings, tickets};

/// Outcome of a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cancellation {
    /// The booking is cancelled, or certain to be.
    Done,
    /// The booking's state does not allow it.
    Refused(BookingState),
    /// The booking is confirmed, and stays so for this reason.
    Denied(CancelRefusal),
    /// The booking is undecided: its request may still be in a retry queue.
    Undecided,
}

/// Cancels a confirmed booking; begins the cancellation of a held one, whose seats stay held until
/// no payment can come. A confirmed booking stays when one of its tickets is checked in, and for
/// its buyer also when one was transferred or the event has begun; for the cancellation of its
/// event it never does. Idempotent.
pub(crate) async fn cancel(
    conn: &mut PgConnection,
    id: BookingId,
    asked_by: Option<AccountId>,
    now: DateTime<Utc>,
    staged: &mut Staged,
) -> Result<Cancellation, sqlx::Error> {
    if let Some(buyer) = bookings::begin_cancel(conn, id, now).await? {
        let void = VoidPayment {
            booking_id: id,
            reason: VoidReason::Cancelled,
        };
        staged.put_all(conn, vec![Entry::new(&void)?]).await?;
        note(conn, id, asked_by, buyer, now, staged).await?;
        return Ok(Cancellation::Done);
    }
    // A cancelled event refunds those who were let in, too.
    if let Some(by) = asked_by
        && let Some(refusal) = tickets::bind(conn, id, by, now).await?
    {
        return Ok(Cancellation::Denied(refusal));
    }
    if let Some(buyer) = cancel_confirmed(conn, id, asked_by, now, staged).await? {
        note(conn, id, asked_by, buyer, now, staged).await?;
        return Ok(Cancellation::Done);
    }
    Ok(match bookings::read(conn, &[id]).await?.remove(&id) {
        Some(Booking::Held { .. } | Booking::Cancelled(_)) => Cancellation::Done,
        Some(booking) => Cancellation::Refused(booking.state()),
        None => Cancellation::Undecided,
    })
}

/// Adds an entry to the audit log when somebody else than the buyer cancelled.
async fn note(
    conn: &mut PgConnection,
    id: BookingId,
    asked_by: Option<AccountId>,
    buyer: AccountId,
    now: DateTime<Utc>,
    staged: &mut Staged,
) -> Result<(), sqlx::Error> {
    let Some(by) = asked_by.filter(|by| *by != buyer) else {
        return Ok(());
    };
    let detail = json!({ "account_id": buyer });
    let note = AuditNoted::new(by, "booking.cancel", format!("booking:{id}"), detail, now);
    staged.put_all(conn, vec![Entry::new(&note)?]).await
}
