//! Everything that is known of a booking, for support.

use chrono::{DateTime, Utc};
use domain::BookingId;
use serde::Serialize;
use serde_json::Value;
use sqlx::PgPool;

/// One thing that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// When.
    pub at: DateTime<Utc>,
    /// Which part it happened to: `request`, `booking`, `payment`, `stripe call`, `refund`,
    /// `webhook`, `finding`, `email` or `sms`.
    pub part: String,
    /// What happened.
    pub what: String,
    /// What else is known of it.
    pub detail: Value,
}

/// The booking's timeline, oldest first; empty when nobody has heard of it.
///
/// # Errors
/// What the database says.
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
