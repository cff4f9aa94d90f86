//! Tickets.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::booking::{BookingFacts, CancelRefusal, TicketFacts};
use domain::{AccountId, BookingId, EventId, SeatId};
use sqlx::PgConnection;
use uuid::{NoContext, Timestamp, Uuid};

use super::bookings::uuids;

/// Inserts the tickets of confirmed bookings.
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

pub(super) fn new_id(now: DateTime<Utc>) -> Uuid {
    let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
    Uuid::new_v7(Timestamp::from_unix(
        NoContext,
        seconds,
        now.timestamp_subsec_nanos(),
    ))
}

/// The live tickets of these bookings that their buyers hold, in the order of their seats: the code
/// of a transferred ticket is its new holder's alone. Looked up booking by booking, since a plan
/// made while the table was small would scan it for every batch.
pub(crate) async fn of(
    conn: &mut PgConnection,
    bookings: &[BookingFacts],
) -> Result<HashMap<BookingId, Vec<TicketFacts>>, sqlx::Error> {
    let ids: Vec<_> = bookings.iter().map(|booking| booking.booking_id).collect();
    let buyers: Vec<_> = bookings
        .iter()
        .map(|booking| booking.account_id.0)
        .collect();
    let rows = sqlx::query!(
        "select t.booking_id, t.seat_id, t.code
         from unnest($1::uuid[], $2::bigint[]) as wanted (id, account_id)
         cross join lateral (
             select * from booking.tickets
             where booking_id = wanted.id and state <> 'cancelled'
               and account_id = wanted.account_id offset 0) t",
        &uuids(&ids),
        &buyers,
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

/// A ticket that was cancelled.
#[derive(Debug)]
pub(crate) struct CancelledTicket {
    pub(crate) event_id: EventId,
    pub(crate) holder: AccountId,
    pub(crate) buyer: AccountId,
}

/// Cancels all live tickets of these bookings, and returns them.
pub(crate) async fn cancel(
    conn: &mut PgConnection,
    bookings: &[BookingId],
) -> Result<Vec<CancelledTicket>, sqlx::Error> {
    let rows = sqlx::query!(
        "update booking.tickets t set state = 'cancelled', live_seat_id = null
         from booking.bookings b
         where t.booking_id = any($1) and t.state <> 'cancelled' and b.id = t.booking_id
         returning t.event_id, t.account_id as holder, b.account_id as buyer",
        &uuids(bookings),
    )
    .fetch_all(conn)
    .await?;
    let gone = rows.into_iter().map(|row| CancelledTicket {
        event_id: EventId(row.event_id),
        holder: AccountId(row.holder),
        buyer: AccountId(row.buyer),
    });
    Ok(gone.collect())
}

/// Returns the reason for which `asked_by` must not cancel this confirmed booking: one of its
/// tickets is checked in; or its buyer asks and has transferred a ticket, which the new holder is
/// not to lose, or the event has begun. Locks the booking, so the answer holds until the
/// transaction ends.
pub(crate) async fn bind(
    conn: &mut PgConnection,
    id: BookingId,
    asked_by: AccountId,
    now: DateTime<Utc>,
) -> Result<Option<CancelRefusal>, sqlx::Error> {
    let locked = sqlx::query!(
        "select id from booking.bookings where id = $1 and state = 'confirmed' for update",
        id.0,
    );
    if locked.fetch_optional(&mut *conn).await?.is_none() {
        return Ok(None);
    }
    // A separate statement, which sees what was committed while it waited for the lock.
    let ties = sqlx::query!(
        r#"select b.account_id = $2 as "is_buyer!", e.date <= $3 as "has_begun!",
                  exists (select from booking.tickets t
                          where t.booking_id = b.id and t.state = 'checked_in') as "is_used!",
                  exists (select from booking.tickets t
                          where t.booking_id = b.id and t.state = 'valid'
                            and t.account_id <> b.account_id) as "is_transferred!"
           from booking.bookings b join booking.events e using (event_id) where b.id = $1"#,
        id.0,
        asked_by.0,
        now,
    )
    .fetch_one(conn)
    .await?;
    Ok(if ties.is_used {
        Some(CancelRefusal::CheckedIn)
    } else if ties.is_buyer && ties.is_transferred {
        Some(CancelRefusal::Transferred)
    } else if ties.is_buyer && ties.has_begun {
        Some(CancelRefusal::EventBegun)
    } else {
        None
    })
}

/// A ticket as the door sees it.
#[derive(Debug)]
pub(crate) struct AtTheDoor {
    pub(crate) booking_id: BookingId,
    pub(crate) event_id: EventId,
    pub(crate) seat_id: SeatId,
    pub(crate) state: String,
    pub(crate) checked_in_at: Option<DateTime<Utc>>,
    pub(crate) transferred_at: Option<DateTime<Utc>>,
}

/// Checks in a valid ticket of this event; `None` when it is not valid, or for another event.
pub(crate) async fn check_in(
    conn: &mut PgConnection,
    code: &str,
    event_id: EventId,
    by: AccountId,
    now: DateTime<Utc>,
) -> Result<Option<AtTheDoor>, sqlx::Error> {
    // The booking is locked first, so that it is either cancelled or checked in.
    sqlx::query_as!(
        AtTheDoor,
        "with booking as materialized (
             select b.id from booking.bookings b
             where b.id = (select booking_id from booking.tickets where code = $1) and b.state = 'confirmed'
             for share
         )
         update booking.tickets t set state = 'checked_in', checked_in_at = $2, checked_in_by = $3
         from booking
         where t.booking_id = booking.id and t.code = $1 and t.event_id = $4 and t.state = 'valid'
         returning t.booking_id, t.event_id, t.seat_id, t.state, t.checked_in_at, t.transferred_at",
        code,
        now,
        by.0,
        event_id.0,
    )
    .fetch_optional(conn)
    .await
}

/// A check-in that was undone.
#[derive(Debug)]
pub(crate) struct Undone {
    /// The ticket, which is valid again.
    pub(crate) ticket: AtTheDoor,
    pub(crate) checked_in_by: AccountId,
    pub(crate) checked_in_at: DateTime<Utc>,
}

/// Undoes a check-in; `None` when the code is not checked in.
pub(crate) async fn undo_check_in(
    conn: &mut PgConnection,
    code: &str,
) -> Result<Option<Undone>, sqlx::Error> {
    let row = sqlx::query!(
        r#"with used as materialized (
               select id, checked_in_by, checked_in_at from booking.tickets
               where code = $1 and state = 'checked_in' for update
           )
           update booking.tickets t set state = 'valid', checked_in_at = null, checked_in_by = null
           from used where t.id = used.id
           returning t.booking_id, t.event_id, t.seat_id, t.state,
                     used.checked_in_by as "by!", used.checked_in_at as "at!""#,
        code,
    )
    .fetch_optional(conn)
    .await?;
    Ok(row.map(|row| Undone {
        ticket: AtTheDoor {
            booking_id: BookingId(row.booking_id),
            event_id: EventId(row.event_id),
            seat_id: SeatId(row.seat_id),
            state: row.state,
            checked_in_at: None,
            transferred_at: None,
        },
        checked_in_by: AccountId(row.by),
        checked_in_at: row.at,
    }))
}

/// The ticket with this code, valid or not.
pub(crate) async fn find(
    conn: &mut PgConnection,
    code: &str,
) -> Result<Option<AtTheDoor>, sqlx::Error> {
    sqlx::query_as!(
        AtTheDoor,
        "select booking_id, event_id, seat_id, state, checked_in_at, transferred_at
         from booking.tickets where code = $1",
        code,
    )
    .fetch_optional(conn)
    .await
}

/// Returns the time at which this code was replaced; `None` if it never was.
pub(crate) async fn replaced_at(
    conn: &mut PgConnection,
    code: &str,
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    sqlx::query_scalar!(
        "select replaced_at from booking.replaced_codes where code = $1",
        code,
    )
    .fetch_optional(conn)
    .await
}
