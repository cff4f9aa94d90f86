//! Bookings and tickets about which the notifier has written no notice in time. What is claimed is
//! published again; of two workers one gets each, and none within [`REPUBLISH_AFTER`].

use chrono::{DateTime, Utc};
use domain::booking::{BookedSeat, BookingFacts, BookingState, EndReason, TicketFacts};
use domain::message::{CancelAsked, TicketTransferred};
use domain::{AccountId, SeatId};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::bookings::{NOTICES_KEPT, REPUBLISH_AFTER, Row};

/// A booking that ended, as `booking.expired.v1` or `booking.cancelled.v1` has it.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) facts: BookingFacts,
    /// `true` if it had tickets.
    pub(crate) was_confirmed: bool,
    /// Expired or cancelled.
    pub(crate) is_expired: bool,
    /// Who cancelled it, and when.
    pub(crate) asked: Option<CancelAsked>,
    /// Why its hold ended early.
    pub(crate) reason: Option<EndReason>,
}

/// Claims up to `limit` holds that were placed until `placed_by`, run longer than `runs_past` and
/// cost something.
pub(crate) async fn claim_holds(
    conn: &mut PgConnection,
    runs_past: DateTime<Utc>,
    placed_by: DateTime<Utc>,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<BookingFacts>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"with lost as materialized (
               select b.id from booking.bookings b
               where b.state = 'held' and b.ending is null and b.hold_until > $1
                 and b.created_at <= $2 and b.total_minor > 0
                 and not exists (select from notifier.public_notices n
                                 where n.booking_id = b.id and n.kind = 'held')
                 and not exists (select from booking.republished_news r
                                 where r.booking_id = b.id and r.kind = 'held'
                                   and r.republished_at > $3)
               order by b.hold_until limit $5
           ), claimed as (
               insert into booking.republished_news as r (booking_id, kind, republished_at)
               select id, 'held', $4 from lost order by id
               on conflict (booking_id, kind, number) do update
               set republished_at = excluded.republished_at
               where r.republished_at <= $3
               returning booking_id
           )
           select b.id, b.event_id, b.account_id, b.seats as "seats: Json<Vec<BookedSeat>>",
                  b.total_minor, b.currency, b.hold_until as "hold_until!", b.created_at
           from booking.bookings b join claimed c on c.booking_id = b.id"#,
        runs_past,
        placed_by,
        now - REPUBLISH_AFTER,
        now,
        limit,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(BookingFacts::from).collect())
}

/// Claims up to `limit` bookings that expired or were cancelled in this period. Excludes events
/// whose notices may be pruned.
pub(crate) async fn claim_ends(
    conn: &mut PgConnection,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<End>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"with lost as materialized (
               select b.id, b.state from booking.bookings b join booking.events e using (event_id)
               where b.state in ('expired', 'cancelled')
                 and b.updated_at > $1 and b.updated_at <= $2 and e.date > $3
                 and not exists (select from notifier.public_notices n
                                 where n.booking_id = b.id and n.account_id = b.account_id
                                   and n.kind = b.state)
                 and not exists (select from booking.republished_news r
                                 where r.booking_id = b.id and r.kind = b.state
                                   and r.republished_at > $4)
               order by b.updated_at limit $6
           ), claimed as (
               insert into booking.republished_news as r (booking_id, kind, republished_at)
               select id, state, $5 from lost order by id
               on conflict (booking_id, kind, number) do update
               set republished_at = excluded.republished_at
               where r.republished_at <= $4
               returning booking_id
           )
           select b.id, b.event_id, b.account_id, b.seats as "seats: Json<Vec<BookedSeat>>",
                  b.total_minor, b.currency, b.hold_until as "hold_until!", b.created_at,
                  b.state, b.end_reason, x.cancelled_at as "cancelled_at?",
                  x.cancelled_by as "cancelled_by?"
           from booking.bookings b join claimed c on c.booking_id = b.id
           left join booking.cancellations x on x.booking_id = b.id"#,
        from,
        to,
        now - NOTICES_KEPT,
        now - REPUBLISH_AFTER,
        now,
        limit,
    )
    .fetch_all(conn)
    .await?;
    let ends = rows.into_iter().map(|row| End {
        was_confirmed: row.cancelled_at.is_some(),
        is_expired: row.state == BookingState::Expired.as_str(),
        asked: row
            .cancelled_at
            .zip(row.cancelled_by)
            .map(|(at, by)| CancelAsked {
                by: AccountId(by),
                at,
            }),
        reason: row.end_reason.as_deref().and_then(EndReason::parse),
        facts: Row {
            id: row.id,
            event_id: row.event_id,
            account_id: row.account_id,
            seats: row.seats,
            total_minor: row.total_minor,
            currency: row.currency,
            hold_until: row.hold_until,
            created_at: row.created_at,
        }
        .into(),
    });
    Ok(ends.collect())
}

/// Claims up to `limit` changes of codes in this period, by transfers or for their holders, of
/// tickets that were not changed again and still admit. Excludes events whose notices may be pruned.
///
/// A holder has as many notices as changes: the number of a change alone tells nothing, since two
/// at once may have been counted in the other order.
pub(crate) async fn claim_transfers(
    conn: &mut PgConnection,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<TicketTransferred>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"with changed as (
               select t.id as ticket_id, t.created_at as at, before.account_id as sender
               from booking.tickets t join booking.tickets before on before.id = t.replaces
               where t.replaces is not null and t.created_at > $1 and t.created_at <= $2
               union all
               select t.id, c.replaced_at, t.account_id
               from booking.replaced_codes c join booking.tickets t on t.id = c.ticket_id
               where c.replaced_at > $1 and c.replaced_at <= $2
           ), latest as (
               select t.id as ticket_id, t.booking_id, t.account_id, h.sender, h.at,
                      (select count(*) from booking.tickets x
                       where x.booking_id = t.booking_id and x.replaces is not null
                         and x.created_at <= h.at)
                      + (select count(*) from booking.replaced_codes c
                         join booking.tickets x on x.id = c.ticket_id
                         where x.booking_id = t.booking_id and c.replaced_at <= h.at) as number
               from changed h join booking.tickets t on t.id = h.ticket_id
               join booking.events e on e.event_id = t.event_id
               where t.state = 'valid' and e.date > $3
                 and not exists (select from booking.replaced_codes c
                                 where c.ticket_id = t.id and c.replaced_at > h.at)
           ), lost as materialized (
               select l.* from latest l
               where not exists (select from notifier.public_notices n
                                 where n.booking_id = l.booking_id and n.account_id = l.account_id
                                   and n.kind = 'received' and n.occasion = l.number)
                 and (select count(*) from notifier.public_notices n
                      where n.booking_id = l.booking_id and n.account_id = l.account_id
                        and n.kind = 'received')
                     < (select count(*) from booking.tickets x
                        where x.booking_id = l.booking_id and x.account_id = l.account_id
                          and x.replaces is not null)
                       + (select count(*) from booking.replaced_codes c
                          join booking.tickets x on x.id = c.ticket_id
                          where x.booking_id = l.booking_id and x.account_id = l.account_id)
                 and not exists (select from booking.republished_news r
                                 where r.booking_id = l.booking_id and r.kind = 'transferred'
                                   and r.number = l.number and r.republished_at > $4)
               order by l.at limit $6
           ), claimed as (
               insert into booking.republished_news as r (booking_id, kind, number, republished_at)
               select distinct booking_id, 'transferred', number, $5::timestamptz from lost
               order by booking_id, number
               on conflict (booking_id, kind, number) do update
               set republished_at = excluded.republished_at
               where r.republished_at <= $4
               returning booking_id, number
           )
           select b.id, b.event_id, b.account_id, b.seats as "seats: Json<Vec<BookedSeat>>",
                  b.total_minor, b.currency, b.hold_until as "hold_until!", b.created_at,
                  l.sender as "sender!", t.account_id as holder, t.code, t.seat_id,
                  l.number as "number!"
           from claimed c
           join lost l on l.booking_id = c.booking_id and l.number = c.number
           join booking.tickets t on t.id = l.ticket_id
           join booking.bookings b on b.id = c.booking_id"#,
        from,
        to,
        now - NOTICES_KEPT,
        now - REPUBLISH_AFTER,
        now,
        limit,
    )
    .fetch_all(conn)
    .await?;
    let transfers = rows.into_iter().filter_map(|row| {
        let seat = row
            .seats
            .0
            .iter()
            .find(|seat| seat.id == SeatId(row.seat_id));
        let ticket = TicketFacts {
            code: row.code,
            seat: seat?.clone(),
        };
        let booking = Row {
            id: row.id,
            event_id: row.event_id,
            account_id: row.account_id,
            seats: row.seats,
            total_minor: row.total_minor,
            currency: row.currency,
            hold_until: row.hold_until,
            created_at: row.created_at,
        };
        Some(TicketTransferred {
            booking: booking.into(),
            ticket,
            from: AccountId(row.sender),
            to: AccountId(row.holder),
            number: row.number,
        })
    });
    Ok(transfers.collect())
}
