//! Transfers of tickets, and replaced codes.

use chrono::{DateTime, Utc};
use domain::booking::BookedSeat;
use domain::{AccountId, BookingId, EventId, SeatId};
use serde::Serialize;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::tickets::new_id;

/// Most tickets in one answer.
const MAX_LISTED: i64 = 100;

/// A ticket that is to be transferred, or was.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) id: Uuid,
    pub(crate) booking_id: BookingId,
    pub(crate) event_id: EventId,
    /// The holder, or the last one.
    pub(crate) account_id: AccountId,
    pub(crate) buyer: AccountId,
    pub(crate) seat_id: SeatId,
    pub(crate) state: String,
    pub(crate) checked_in_at: Option<DateTime<Utc>>,
    pub(crate) transferred_at: Option<DateTime<Utc>>,
    /// The account that it was transferred to.
    pub(crate) transferred_to: Option<i64>,
}

/// Locks the booking of the ticket with this code: a transfer, a cancellation and a check-in
/// exclude each other. `None` when there is no such ticket.
pub(crate) async fn lock_booking(
    conn: &mut PgConnection,
    code: &str,
) -> Result<Option<BookingId>, sqlx::Error> {
    let id = sqlx::query_scalar!(
        "select id from booking.bookings
         where id = (select booking_id from booking.tickets where code = $1)
         for no key update",
        code,
    );
    Ok(id.fetch_optional(conn).await?.map(BookingId))
}

pub(crate) async fn find(
    conn: &mut PgConnection,
    code: &str,
) -> Result<Option<Ticket>, sqlx::Error> {
    sqlx::query_as!(
        Ticket,
        r#"select t.id, t.booking_id, t.event_id, t.account_id, b.account_id as buyer, t.seat_id,
                  t.state, t.checked_in_at, t.transferred_at, next.account_id as "transferred_to?"
           from booking.tickets t join booking.bookings b on b.id = t.booking_id
           left join booking.tickets next on next.replaces = t.id
           where t.code = $1"#,
        code,
    )
    .fetch_optional(conn)
    .await
}

/// Terms of a transfer.
#[derive(Debug)]
pub(crate) struct Terms {
    /// `true` if the organiser allows it.
    pub(crate) is_allowed: bool,
    /// `true` if the booking is paid, or free.
    pub(crate) is_paid: bool,
    /// `true` if the booking was refunded, in part or all.
    pub(crate) is_refunded: bool,
}

/// The terms for tickets of this booking.
pub(crate) async fn terms(conn: &mut PgConnection, id: BookingId) -> Result<Terms, sqlx::Error> {
    sqlx::query_as!(
        Terms,
        r#"select e.ticket_transfer and not e.cancelled as "is_allowed!",
                  b.captured_at is not null as "is_paid!",
                  exists (select from payment.public_payments p
                          where p.booking_id = b.id and p.refunded_minor > 0) as "is_refunded!"
           from booking.bookings b join booking.events e using (event_id) where b.id = $1"#,
        id.0,
    )
    .fetch_one(conn)
    .await
}

/// The account with this address.
pub(crate) async fn account_at(
    conn: &mut PgConnection,
    address: &str,
) -> Result<Option<AccountId>, sqlx::Error> {
    let id = sqlx::query_scalar!(
        r#"select account_id as "id!" from box_office.public_addresses where address = lower($1)"#,
        address,
    );
    Ok(id.fetch_optional(conn).await?.map(AccountId))
}

/// Cancels a valid ticket because it is transferred; `false` when it is not valid.
pub(crate) async fn cancel(
    conn: &mut PgConnection,
    ticket: &Ticket,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update booking.tickets
         set state = 'cancelled', live_seat_id = null, transferred_at = $2
         where id = $1 and state = 'valid'",
        ticket.id,
        now,
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

/// Inserts the ticket that replaces it; returns the number of this change among the booking's
/// changes of codes.
pub(crate) async fn replace(
    conn: &mut PgConnection,
    ticket: &Ticket,
    to: AccountId,
    code: &str,
    now: DateTime<Utc>,
) -> Result<i64, sqlx::Error> {
    sqlx::query!(
        "insert into booking.tickets
             (id, code, booking_id, event_id, account_id, seat_id, live_seat_id, state, created_at,
              replaces)
         values ($1, $2, $3, $4, $5, $6, $6, 'valid', $7, $8)",
        new_id(now),
        code,
        ticket.booking_id.0,
        ticket.event_id.0,
        to.0,
        ticket.seat_id.0,
        now,
        ticket.id,
    )
    .execute(&mut *conn)
    .await?;
    changes(conn, ticket.booking_id).await
}

/// Counts the booking's changes of codes, by transfers or for their holders.
async fn changes(conn: &mut PgConnection, booking_id: BookingId) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select (select count(*) from booking.tickets where booking_id = $1 and replaces is not null)
                  + (select count(*) from booking.replaced_codes c
                     join booking.tickets t on t.id = c.ticket_id where t.booking_id = $1) as "count!""#,
        booking_id.0,
    )
    .fetch_one(conn)
    .await
}

/// Replaces the code of a valid ticket; returns the number of this change among the booking's
/// changes of codes, `None` when it is not valid.
pub(crate) async fn replace_code(
    conn: &mut PgConnection,
    ticket: &Ticket,
    old: &str,
    new: &str,
    now: DateTime<Utc>,
) -> Result<Option<i64>, sqlx::Error> {
    let done = sqlx::query!(
        "with replaced as (
             update booking.tickets set code = $3 where id = $1 and code = $2 and state = 'valid'
             returning id
         )
         insert into booking.replaced_codes (code, ticket_id, replaced_at)
         select $2, id, $4 from replaced",
        ticket.id,
        old,
        new,
        now,
    );
    if done.execute(&mut *conn).await?.rows_affected() == 0 {
        return Ok(None);
    }
    changes(conn, ticket.booking_id).await.map(Some)
}

/// A code that was replaced.
#[derive(Debug)]
pub(crate) struct Replaced {
    pub(crate) replaced_at: DateTime<Utc>,
    /// The current code of its ticket.
    pub(crate) code: String,
}

/// The replacement of a code; `None` when it never was replaced.
pub(crate) async fn replaced(
    conn: &mut PgConnection,
    code: &str,
) -> Result<Option<Replaced>, sqlx::Error> {
    sqlx::query_as!(
        Replaced,
        "select c.replaced_at, t.code from booking.replaced_codes c
         join booking.tickets t on t.id = c.ticket_id where c.code = $1",
        code,
    )
    .fetch_optional(conn)
    .await
}

/// A ticket that changed hands, as one of the two accounts sees it.
#[derive(Debug, Serialize)]
pub(crate) struct TransferredTicket {
    pub(crate) event_id: EventId,
    pub(crate) booking_id: BookingId,
    pub(crate) seat: Option<BookedSeat>,
    /// Present while the account holds the ticket.
    pub(crate) code: Option<String>,
    pub(crate) state: String,
    pub(crate) received_at: Option<DateTime<Utc>>,
    pub(crate) received_from: Option<AccountId>,
    pub(crate) transferred_at: Option<DateTime<Utc>>,
    pub(crate) transferred_to: Option<AccountId>,
}

/// The latest tickets that this account received or gave away.
pub(crate) async fn of_account(
    pool: &PgPool,
    account: AccountId,
) -> Result<Vec<TransferredTicket>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select t.event_id, t.booking_id, t.seat_id, t.code, t.state, t.created_at, t.transferred_at,
                  b.seats as "seats: Json<Vec<BookedSeat>>",
                  before.account_id as "received_from?", next.account_id as "transferred_to?"
           from booking.tickets t join booking.bookings b on b.id = t.booking_id
           left join booking.tickets before on before.id = t.replaces
           left join booking.tickets next on next.replaces = t.id
           where t.account_id = $1 and (t.replaces is not null or t.transferred_at is not null)
           order by t.id desc limit $2"#,
        account.0,
        MAX_LISTED,
    )
    .fetch_all(pool)
    .await?;
    let changed = rows.into_iter().map(|row| TransferredTicket {
        event_id: EventId(row.event_id),
        booking_id: BookingId(row.booking_id),
        seat: row
            .seats
            .0
            .into_iter()
            .find(|seat| seat.id == SeatId(row.seat_id)),
        code: (row.state != "cancelled").then_some(row.code),
        state: match row.transferred_at {
            Some(_) => "transferred".to_owned(),
            None => row.state,
        },
        received_at: row.received_from.map(|_| row.created_at),
        received_from: row.received_from.map(AccountId),
        transferred_at: row.transferred_at,
        transferred_to: row.transferred_to.map(AccountId),
    });
    Ok(changed.collect())
}
