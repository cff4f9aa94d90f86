//! Timeline of a booking, for support.

use chrono::{DateTime, Utc};
use domain::BookingId;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;

/// An event of the timeline.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// When it happened.
    pub at: DateTime<Utc>,
    /// Its subject: `request`, `booking`, `payment`, `stripe call`, `refund`, `webhook`, `finding`,
    /// `email` or `sms`.
    pub part: String,
    /// The event, or the state it reached.
    pub what: String,
    /// Its data.
    pub detail: Value,
}

/// Reads a booking's timeline, oldest first; empty when no table has the booking.
///
/// # Errors
/// When the database fails.
pub async fn timeline(pool: &PgPool, booking_id: BookingId) -> Result<Vec<Entry>, sqlx::Error> {
    sqlx::query_as!(
        Entry,
        r#"select at as "at!", part as "part!", what as "what!", detail as "detail!"
           from support.booking_timeline where booking_id = $1
           order by at, part, what"#,
        booking_id.0
    )
    .fetch_all(pool)
    .await
}
