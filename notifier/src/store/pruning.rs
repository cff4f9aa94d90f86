//! SQL that deletes rows of past events.

use chrono::{DateTime, Utc};
use domain::BookingId;
use sqlx::PgPool;

/// Bookings deleted by one statement.
const BATCH: i64 = 500;

/// Deletes messages, bookings and holders of up to [`BATCH`] bookings whose events began before
/// `before`, oldest first (ids are UUIDv7). Returns the number of messages and bookings deleted.
pub(crate) async fn remove_some(pool: &PgPool, before: DateTime<Utc>) -> Result<i64, sqlx::Error> {
    let newest = BookingId::new(before);
    sqlx::query_scalar!(
        r#"with old as (
               select distinct booking_id from (
                   select booking_id from notifier.notifications join notifier.events using (event_id)
                   where booking_id < $1 and starts_at < $2 order by booking_id limit $3) messages
               union
               select booking_id from (
                   select booking_id from notifier.bookings join notifier.events using (event_id)
                   where booking_id < $1 and starts_at < $2 order by booking_id limit $3) paid),
           messages as (
               delete from notifier.notifications using old
               where notifications.booking_id = old.booking_id returning 1),
           holders as (
               delete from notifier.holders using old where holders.booking_id = old.booking_id),
           paid as (
               delete from notifier.bookings using old
               where bookings.booking_id = old.booking_id returning 1)
           select (select count(*) from messages) + (select count(*) from paid) as "rows!""#,
        newest.0,
        before,
        BATCH,
    )
    .fetch_one(pool)
    .await
}
