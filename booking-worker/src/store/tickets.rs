//! Tickets.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::BookingId;
use domain::booking::{BookingFacts, TicketFacts};
use sqlx::PgConnection;
use uuid::{NoContext, Timestamp, Uuid};

use super::bookings::uuids;

/// Writes the tickets of confirmed bookings.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    tickets: &[(&BookingFacts, &TicketFacts)],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let ids: Vec<_> = tickets.iter().map(|_| new_id(now)).collect();
    let codes: Vec<_> = tickets
        .iter()
        .map(|(_, ticket)| ticket.code.clone())
        .collect();
    let bookings: Vec<_> = tickets
        .iter()
        .map(|(booking, _)| booking.booking_id.0)
        .collect();
    let events: Vec<_> = tickets
        .iter()
        .map(|(booking, _)| booking.event_id.0)
        .collect();
    let accounts: Vec<_> = tickets
        .iter()
        .map(|(booking, _)| booking.account_id.0)
        .collect();
    let seats: Vec<_> = tickets.iter().map(|(_, ticket)| ticket.seat.id.0).collect();
    sqlx::query!(
        "insert into booking.tickets
             (id, code, booking_id, event_id, account_id, seat_id, live_seat_id, state, created_at)
         select id, code, booking_id, event_id, account_id, seat_id, seat_id, 'valid', $1
         from unnest($2::uuid[], $3::text[], $4::uuid[], $5::bigint[], $6::bigint[], $7::bigint[])
              as new (id, code, booking_id, event_id, account_id, seat_id)",
        now,
        &ids,
        &codes,
        &bookings,
        &events,
        &accounts,
        &seats,
    )
    .execute(conn)
    .await?;
    Ok(())
}

fn new_id(now: DateTime<Utc>) -> Uuid {
    let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
    Uuid::new_v7(Timestamp::from_unix(
        NoContext,
        seconds,
        now.timestamp_subsec_nanos(),
    ))
}

/// The good tickets of these bookings, in the order of their seats.
pub(crate) async fn of(
    conn: &mut PgConnection,
    bookings: &[BookingFacts],
) -> Result<HashMap<BookingId, Vec<TicketFacts>>, sqlx::Error> {
    let ids: Vec<_> = bookings.iter().map(|booking| booking.booking_id).collect();
    let rows = sqlx::query!(
        "select booking_id, seat_id, code from booking.tickets
         where booking_id = any($1) and state <> 'cancelled'",
        &uuids(&ids),
    )
    .fetch_all(conn)
    .await?;
    let codes: HashMap<_, _> = rows
        .into_iter()
        .map(|row| ((row.booking_id, row.seat_id), row.code))
        .collect();
    let tickets = |booking: &BookingFacts| {
        let ticket = |seat: &domain::booking::BookedSeat| {
            let code = codes.get(&(booking.booking_id.0, seat.id.0))?.clone();
            Some(TicketFacts {
                code,
                seat: seat.clone(),
            })
        };
        booking.seats.iter().filter_map(ticket).collect()
    };
    Ok(bookings
        .iter()
        .map(|booking| (booking.booking_id, tickets(booking)))
        .collect())
}

/// Makes all tickets of these bookings worthless.
pub(crate) async fn cancel(
    conn: &mut PgConnection,
    bookings: &[BookingId],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update booking.tickets set state = 'cancelled', live_seat_id = null
         where booking_id = any($1) and state <> 'cancelled'",
        &uuids(bookings),
    )
    .execute(conn)
    .await?;
    Ok(())
}
