//! Seats. The counters of their sections follow by trigger.

use domain::{BookingId, SeatId};
use sqlx::PgConnection;

use super::bookings::uuids;

/// Sets free seats aside for bookings. `false` when one is not free any more: then nothing may be
/// committed.
pub(crate) async fn hold(
    conn: &mut PgConnection,
    seats: &[(SeatId, BookingId)],
) -> Result<bool, sqlx::Error> {
    let ids: Vec<_> = seats.iter().map(|(seat, _)| seat.0).collect();
    let bookings: Vec<_> = seats.iter().map(|(_, booking)| booking.0).collect();
    let held = sqlx::query!(
        "with free as materialized (
             select s.id, wanted.booking_id
             from unnest($1::bigint[], $2::uuid[]) as wanted (id, booking_id)
             join booking.seats s using (id)
             where s.state = 'available'
             order by s.id for update of s
         )
         update booking.seats s set state = 'held', booking_id = free.booking_id
         from free where s.id = free.id",
        &ids,
        &bookings,
    )
    .execute(conn)
    .await?
    .rows_affected();
    Ok(usize::try_from(held) == Ok(seats.len()))
}

/// held → sold for all seats of these bookings.
pub(crate) async fn sell(
    conn: &mut PgConnection,
    bookings: &[BookingId],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update booking.seats set state = 'sold' where booking_id = any($1) and state = 'held'",
        &uuids(bookings),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Puts all seats of these bookings on sale again.
pub(crate) async fn free(
    conn: &mut PgConnection,
    bookings: &[BookingId],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update booking.seats set state = 'available', booking_id = null where booking_id = any($1)",
        &uuids(bookings),
    )
    .execute(conn)
    .await?;
    Ok(())
}
