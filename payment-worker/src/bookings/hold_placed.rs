//! Seats are held: a payment is due.

use chrono::{DateTime, Utc};
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
        if booking.total.is_zero() || !payments::insert_due(conn, booking, now).await? {
            return Ok(Done::Yes);
        }
        let request = Request::Create(NewIntent {
            amount: booking.total,
            event_id: booking.event_id.0,
            account_id: booking.account_id.0,
        });
        operations::insert(conn, booking.booking_id, &request, now, now).await?;
        Ok(Done::Yes)
    }
}
