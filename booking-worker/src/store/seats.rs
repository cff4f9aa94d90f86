//! Seats. A trigger maintains the counters of their sections.

use domain::{BookingId, SeatId};
use sqlx::PgConnection;

use super::bookings::uuids;

/// Holds free seats for bookings; `false` when one is not free any more, and the transaction must
/// be rolled back.
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

/// held → sold, for all seats of these bookings.
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

/// Frees all seats of these bookings; those outside the layout of their section are removed.
pub(crate) async fn free(
    conn: &mut PgConnection,
    bookings: &[BookingId],
) -> Result<(), sqlx::Error> {
    let sections = sqlx::query_scalar!(
        "update booking.seats set state = 'available', booking_id = null where booking_id = any($1)
         returning section_id",
        &uuids(bookings),
    )
    .fetch_all(&mut *conn)
    .await?;
    trim(conn, &sections).await
}

/// Removes free seats from those of these sections that have more than their layout: seats outside
/// its rows, and of general admission the last ones. Locked seats stay.
pub(crate) async fn trim(conn: &mut PgConnection, sections: &[i64]) -> Result<(), sqlx::Error> {
    // A separate statement, which sees the counters as they are now.
    let too_large = sqlx::query_scalar!(
        r#"select section_id as "id!" from booking.layouts
           where section_id = any($1) and capacity > wanted"#,
        sections,
    )
    .fetch_all(&mut *conn)
    .await?;
    if too_large.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "delete from booking.seats where id in (
             select s.id
             from booking.layouts l
             cross join lateral (
                 select id from booking.seats
                 where section_id = l.section_id and state = 'available'
                   and (l.rows is null or rank / 1000 >= l.rows or number > l.seats_per_row)
                 order by rank desc
                 limit greatest(l.capacity - l.wanted, 0)
                 for update skip locked
             ) s
             where l.section_id = any($1)
         )",
        &too_large,
    )
    .execute(conn)
    .await?;
    Ok(())
}
