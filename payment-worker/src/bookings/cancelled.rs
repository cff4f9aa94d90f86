//! Handles `booking.cancelled`: the money of a booking with tickets is released or refunded.

use chrono::{DateTime, Utc};
use domain::message::BookingCancelled;
use sqlx::PgConnection;

use super::release::give_back;
use super::{Done, Effect};
use crate::store::payments;

impl Effect for BookingCancelled {
    async fn apply(
        &self,
        conn: &mut PgConnection,
        now: DateTime<Utc>,
    ) -> Result<Done, sqlx::Error> {
        let booking = &self.booking;
        if !self.was_confirmed || booking.total.is_zero() {
            return Ok(Done::Yes);
        }
        let Some(payment) = payments::lock(conn, booking.booking_id).await? else {
            return Ok(Done::TooEarly);
        };
        give_back(conn, &payment, self.asked, now).await?;
        Ok(Done::Yes)
    }
}
