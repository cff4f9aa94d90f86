//! SQL of the holders of transferred tickets.

use domain::BookingId;
use domain::message::TicketTransferred;
use sqlx::PgConnection;
use sqlx::types::Json;

/// Upserts the holder of a ticket, unless a later transfer is stored, and removes the ticket from
/// the buyer's. Returns `false` if the booking's payment is not stored yet.
pub(crate) async fn put(
    conn: &mut PgConnection,
    facts: &TicketTransferred,
) -> Result<bool, sqlx::Error> {
    let (id, seat_id) = (facts.booking.booking_id.0, facts.ticket.seat.id.0);
    let bought = sqlx::query!(
        "update notifier.bookings
         set facts = jsonb_set(facts, '{tickets}', coalesce(
             (select jsonb_agg(ticket) from jsonb_array_elements(facts -> 'tickets') as ticket
              where (ticket #>> '{seat,id}')::bigint <> $2), '[]'))
         where booking_id = $1",
        id,
        seat_id,
    );
    if bought.execute(&mut *conn).await?.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query!(
        "insert into notifier.holders as known (booking_id, seat_id, number, event_id, account_id, facts)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (booking_id, seat_id) do update
         set number = excluded.number, account_id = excluded.account_id, facts = excluded.facts
         where known.number < excluded.number",
        id,
        seat_id,
        facts.number,
        facts.booking.event_id.0,
        facts.to.0,
        Json(facts) as _,
    )
    .execute(conn)
    .await?;
    Ok(true)
}

/// Returns the last transfer of each transferred ticket of a booking.
pub(crate) async fn of(
    conn: &mut PgConnection,
    id: BookingId,
) -> Result<Vec<TicketTransferred>, sqlx::Error> {
    let facts = sqlx::query_scalar!(
        r#"select facts as "facts: Json<TicketTransferred>" from notifier.holders
           where booking_id = $1"#,
        id.0,
    );
    let facts = facts.fetch_all(conn).await?;
    Ok(facts.into_iter().map(|facts| facts.0).collect())
}
