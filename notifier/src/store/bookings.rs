//! Paid bookings.

use domain::booking::BookingFacts;
use domain::message::BookingPaid;
use sqlx::PgConnection;
use sqlx::types::Json;

/// Keeps a paid booking, unless it is known, or known to have been cancelled.
pub(crate) async fn put_paid(
    conn: &mut PgConnection,
    paid: &BookingPaid,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into notifier.bookings (booking_id, event_id, account_id, live, facts)
         values ($1, $2, $3, true, $4)
         on conflict (booking_id) do nothing",
        paid.booking.booking_id.0,
        paid.booking.event_id.0,
        paid.booking.account_id.0,
        Json(paid) as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Ends a booking for good, also one whose payment has not been heard of yet.
pub(crate) async fn end(
    conn: &mut PgConnection,
    booking: &BookingFacts,
) -> Result<(), sqlx::Error> {
    let facts = BookingPaid {
        booking: booking.clone(),
        tickets: Vec::new(),
    };
    sqlx::query!(
        "insert into notifier.bookings (booking_id, event_id, account_id, live, facts)
         values ($1, $2, $3, false, $4)
         on conflict (booking_id) do update set live = false",
        booking.booking_id.0,
        booking.event_id.0,
        booking.account_id.0,
        Json(facts) as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}
