//! Seats are held: a payment is due.

use chrono::{DateTime, Utc};
use domain::booking::BookingFacts;
use domain::message::HoldPlaced;
use sqlx::PgConnection;

use super::{Done, Effect};
use crate::operations::Request;
use crate::store::{operations, payments};
use crate::stripe::NewIntent;

impl Effect for HoldPlaced {
    async fn apply(
        &self,
        conn: &mut PgConnection,
        now: DateTime<Utc>,
    ) -> Result<Done, sqlx::Error> {
        let booking = &self.booking;
        make_due(conn, &[booking], now).await?;
        Ok(Done::Yes)
    }
}

/// Makes payments due for bookings that cost something, and asks for their PaymentIntents.
pub(super) async fn make_due(
    conn: &mut PgConnection,
    bookings: &[&BookingFacts],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let priced: Vec<_> = bookings
        .iter()
        .copied()
        .filter(|booking| !booking.total.is_zero())
        .collect();
    if priced.is_empty() {
        return Ok(());
    }
    let due = payments::insert_due(conn, &priced, now).await?;
    let requests: Vec<_> = priced
        .iter()
        .filter(|booking| due.contains(&booking.booking_id))
        .map(|booking| (booking.booking_id, Request::Create(new_intent(booking))))
        .collect();
    let requests: Vec<_> = requests
        .iter()
        .map(|(id, request)| (*id, request))
        .collect();
    operations::insert_all(conn, &requests, now, now).await
}

fn new_intent(booking: &BookingFacts) -> NewIntent {
    NewIntent {
        amount: booking.total,
        event_id: booking.event_id.0,
        account_id: booking.account_id.0,
    }
}
