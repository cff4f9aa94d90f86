//! Transitions held → confirmed, and confirmed → paid.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::BookingId;
use domain::booking::{Booking, BookingFacts, TicketFacts};
use domain::message::{BookingConfirmed, BookingPaid, VoidPayment};
use domain::payment::VoidReason;
use platform::outbox::{Entry, Staged};
use platform::tokens::KeyRing;
use sqlx::PgConnection;

use crate::code::new_code;
use crate::store::{bookings, seats, tickets};

/// Effect of a message about a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransitionOutcome {
    /// It changed the booking, or there was nothing to change.
    Applied,
    /// Its predecessor has not been applied yet.
    TooEarly,
}

/// Applies authorisations: held bookings get their tickets. A booking that has ended has its
/// payment voided.
pub(crate) async fn confirm_authorised(
    conn: &mut PgConnection,
    ids: &[BookingId],
    now: DateTime<Utc>,
    keys: &KeyRing,
    staged: &mut Staged,
) -> Result<Vec<TransitionOutcome>, sqlx::Error> {
    confirm(conn, ids, now, keys, staged).await?;
    let bookings = bookings::read(conn, ids).await?;
    let mut released = Vec::new();
    let mut outcomes = Vec::with_capacity(ids.len());
    for id in ids {
        outcomes.push(match bookings.get(id) {
            // Being cancelled: the payment worker releases it.
            Some(Booking::Held {
                ending: Some(VoidReason::Cancelled),
                ..
            }) => TransitionOutcome::Applied,
            None | Some(Booking::Requested | Booking::Held { .. }) => TransitionOutcome::TooEarly,
            Some(Booking::Confirmed { .. }) => TransitionOutcome::Applied,
            Some(Booking::Rejected(_) | Booking::Expired(_) | Booking::Cancelled(_)) => {
                released.push(Entry::new(&VoidPayment {
                    booking_id: *id,
                    reason: VoidReason::Cancelled,
                })?);
                TransitionOutcome::Applied
            }
        });
    }
    staged.put_all(conn, released).await?;
    Ok(outcomes)
}

/// Confirms held bookings with nothing to pay; they count as paid.
pub(crate) async fn confirm_free(
    conn: &mut PgConnection,
    ids: &[BookingId],
    now: DateTime<Utc>,
    keys: &KeyRing,
    staged: &mut Staged,
) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    confirm(conn, ids, now, keys, staged).await?;
    mark_paid(conn, ids, now, staged).await
}

/// Applies captures: confirmed bookings are paid.
pub(crate) async fn mark_captured(
    conn: &mut PgConnection,
    ids: &[BookingId],
    now: DateTime<Utc>,
    staged: &mut Staged,
) -> Result<Vec<TransitionOutcome>, sqlx::Error> {
    mark_paid(conn, ids, now, staged).await?;
    let bookings = bookings::read(conn, ids).await?;
    let outcomes = ids.iter().map(|id| match bookings.get(id) {
        None | Some(Booking::Requested | Booking::Held { .. }) => TransitionOutcome::TooEarly,
        // Money captured for an ended booking is refunded by the payment worker.
        Some(_) => TransitionOutcome::Applied,
    });
    Ok(outcomes.collect())
}

async fn confirm(
    conn: &mut PgConnection,
    ids: &[BookingId],
    now: DateTime<Utc>,
    keys: &KeyRing,
    staged: &mut Staged,
) -> Result<(), sqlx::Error> {
    let confirmed = bookings::confirm(conn, ids, now).await?;
    if confirmed.is_empty() {
        return Ok(());
    }
    let issued: Vec<_> = confirmed
        .into_iter()
        .map(|booking| issue(keys, booking))
        .collect();
    let rows: Vec<_> = issued
        .iter()
        .flat_map(|(booking, issued)| issued.iter().map(move |ticket| (booking, ticket)))
        .collect();
    tickets::insert(conn, &rows, now).await?;
    let confirmed: Vec<_> = issued
        .iter()
        .map(|(booking, _)| booking.booking_id)
        .collect();
    let entries = issued
        .into_iter()
        .map(|(booking, tickets)| Entry::new(&BookingConfirmed { booking, tickets }))
        .collect::<Result<_, _>>()?;
    staged.put_all(conn, entries).await?;
    seats::sell(conn, &confirmed).await
}

/// Issues a ticket for each seat.
fn issue(keys: &KeyRing, booking: BookingFacts) -> (BookingFacts, Vec<TicketFacts>) {
    let tickets = booking
        .seats
        .iter()
        .map(|seat| TicketFacts {
            code: new_code(keys, booking.event_id, seat.id),
            seat: seat.clone(),
        })
        .collect();
    (booking, tickets)
}

async fn mark_paid(
    conn: &mut PgConnection,
    ids: &[BookingId],
    now: DateTime<Utc>,
    staged: &mut Staged,
) -> Result<(), sqlx::Error> {
    let paid = bookings::mark_captured(conn, ids, now).await?;
    let entries = paid_entries(conn, paid).await?;
    staged.put_all(conn, entries).await
}

/// The `booking.paid.v1` of these bookings, each with the tickets that its buyer holds.
pub(crate) async fn paid_entries(
    conn: &mut PgConnection,
    paid: Vec<BookingFacts>,
) -> Result<Vec<Entry>, sqlx::Error> {
    let mut tickets: HashMap<_, _> = tickets::of(conn, &paid).await?;
    let entries = paid.into_iter().map(|booking| {
        let tickets = tickets.remove(&booking.booking_id).unwrap_or_default();
        Entry::new(&BookingPaid { booking, tickets })
    });
    entries.collect()
}
