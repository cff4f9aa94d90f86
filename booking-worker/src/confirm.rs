//! held → confirmed, and confirmed → paid.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::BookingId;
use domain::booking::{BookingFacts, TicketFacts};
use domain::message::{BookingConfirmed, BookingPaid, VoidPayment};
use domain::payment::VoidReason;
use platform::outbox::{self, Entry};
use sqlx::PgConnection;

use crate::OWNER;
use crate::code::new_code;
use crate::store::bookings::Standing;
use crate::store::{bookings, seats, tickets};

/// What news of a payment came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// It has had its effect, or needs none.
    Taken,
    /// It came before what it follows from.
    TooEarly,
}

/// The payments of these bookings are authorised: held ones get their tickets. One that has ended
/// meanwhile has its payment released.
pub(crate) async fn confirm_authorised(
    conn: &mut PgConnection,
    ids: &[BookingId],
    now: DateTime<Utc>,
) -> Result<Vec<News>, sqlx::Error> {
    confirm(conn, ids, now).await?;
    let standings = bookings::standings(conn, ids).await?;
    let mut released = Vec::new();
    let mut news = Vec::with_capacity(ids.len());
    for id in ids {
        news.push(match standings.get(id) {
            None
            | Some(Standing::Held {
                is_cancelling: false,
                ..
            }) => News::TooEarly,
            Some(
                Standing::Held {
                    is_cancelling: true,
                    ..
                }
                | Standing::Confirmed(_),
            ) => News::Taken,
            Some(Standing::Rejected(_) | Standing::Expired | Standing::Cancelled) => {
                released.push(Entry::new(&VoidPayment {
                    booking_id: *id,
                    reason: VoidReason::Cancelled,
                })?);
                News::Taken
            }
        });
    }
    outbox::put_all(conn, OWNER, released).await?;
    Ok(news)
}

/// Nothing is due for these held bookings: they get their tickets, and count as paid.
pub(crate) async fn confirm_free(
    conn: &mut PgConnection,
    ids: &[BookingId],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    confirm(conn, ids, now).await?;
    mark_paid(conn, ids, now).await
}

/// The payments of these bookings are captured: confirmed ones are paid.
pub(crate) async fn mark_captured(
    conn: &mut PgConnection,
    ids: &[BookingId],
    now: DateTime<Utc>,
) -> Result<Vec<News>, sqlx::Error> {
    mark_paid(conn, ids, now).await?;
    let standings = bookings::standings(conn, ids).await?;
    let news = ids.iter().map(|id| match standings.get(id) {
        None | Some(Standing::Held { .. }) => News::TooEarly,
        // Of a booking that has ended the payment worker refunds what it captured.
        Some(_) => News::Taken,
    });
    Ok(news.collect())
}

async fn confirm(
    conn: &mut PgConnection,
    ids: &[BookingId],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let confirmed = bookings::confirm(conn, ids, now).await?;
    if confirmed.is_empty() {
        return Ok(());
    }
    let issued: Vec<_> = confirmed.into_iter().map(issue).collect();
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
    outbox::put_all(conn, OWNER, entries).await?;
    seats::sell(conn, &confirmed).await
}

/// A ticket for each seat.
fn issue(booking: BookingFacts) -> (BookingFacts, Vec<TicketFacts>) {
    let tickets = booking
        .seats
        .iter()
        .map(|seat| TicketFacts {
            code: new_code(),
            seat: seat.clone(),
        })
        .collect();
    (booking, tickets)
}

async fn mark_paid(
    conn: &mut PgConnection,
    ids: &[BookingId],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let paid = bookings::mark_captured(conn, ids, now).await?;
    let mut tickets: HashMap<_, _> = tickets::of(conn, &paid).await?;
    let entries = paid
        .into_iter()
        .map(|booking| {
            let tickets = tickets.remove(&booking.booking_id).unwrap_or_default();
            Entry::new(&BookingPaid { booking, tickets })
        })
        .collect::<Result<_, _>>()?;
    outbox::put_all(conn, OWNER, entries).await
}
