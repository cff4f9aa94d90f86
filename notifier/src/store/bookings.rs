//! SQL of paid bookings.

use domain::booking::BookingFacts;
use domain::message::BookingPaid;
use sqlx::PgConnection;
use sqlx::types::Json;

/// Inserts paid bookings, except those already stored, as paid or as cancelled.
pub(crate) async fn put_paid(
    conn: &mut PgConnection,
    paid: &[&BookingPaid],
) -> Result<(), sqlx::Error> {
    if paid.is_empty() {
        return Ok(());
    }
    let ids: Vec<_> = paid.iter().map(|paid| paid.booking.booking_id.0).collect();
    let events: Vec<_> = paid.iter().map(|paid| paid.booking.event_id.0).collect();
    let accounts: Vec<_> = paid.iter().map(|paid| paid.booking.account_id.0).collect();
    let facts: Vec<_> = paid.iter().map(|paid| Json(*paid)).collect();
    sqlx::query!(
        "insert into notifier.bookings (booking_id, event_id, account_id, live, facts)
         select booking_id, event_id, account_id, true, facts
         from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::jsonb[])
              as new (booking_id, event_id, account_id, facts)
         order by booking_id
         on conflict (booking_id) do nothing",
        &ids,
        &events,
        &accounts,
        facts.as_slice() as &[Json<&BookingPaid>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Marks a booking as ended. Inserts it if its payment message has not arrived yet, so that a late
/// one does not revive it.
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
