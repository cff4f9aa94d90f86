//! Bookings and tickets about which the notifier has written no notice in time. What is claimed is
//! published again; of two workers one gets each, and none within [`REPUBLISH_AFTER`].

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use domain::booking::{BookingFacts, BookingState, EndReason, TicketFacts};
use domain::message::{CancelAsked, TicketTransferred};
use domain::{AccountId, BookingId, SeatId};
use sqlx::PgConnection;
use uuid::Uuid;

use super::bookings::{self, BookingEnd};

/// Pause before a lost message is published again.
const REPUBLISH_AFTER: TimeDelta = TimeDelta::hours(1);
/// Time from the start of an event for which none of its notices is pruned.
const MIN_NOTICE_RETENTION: TimeDelta = TimeDelta::days(30);

/// The messages that may be lost on their way to the notifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lost {
    /// `hold.placed.v1`.
    Held,
    /// `booking.paid.v1`.
    Paid,
    /// `booking.expired.v1` or `booking.cancelled.v1`.
    Ended,
    /// `ticket.transferred.v1`.
    Transferred,
}

impl Lost {
    pub(crate) const ALL: [Self; 4] = [Self::Held, Self::Paid, Self::Ended, Self::Transferred];

    /// The word in the database and in metrics.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Paid => "paid",
            Self::Ended => "ended",
            Self::Transferred => "transferred",
        }
    }
}

/// The searched period, with the most messages to claim.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Search {
    /// Start of the period, exclusive.
    pub(crate) from: DateTime<Utc>,
    pub(crate) to: DateTime<Utc>,
    pub(crate) limit: i64,
    pub(crate) now: DateTime<Utc>,
}

impl Search {
    /// Events that start later still have all their notices.
    fn begun(&self) -> DateTime<Utc> {
        self.now - MIN_NOTICE_RETENTION
    }

    /// Messages that were republished later than this are skipped.
    fn republished(&self) -> DateTime<Utc> {
        self.now - REPUBLISH_AFTER
    }
}

/// Claims holds that were placed until `placed_by`, run longer than `runs_past` and cost something.
pub(crate) async fn claim_holds(
    conn: &mut PgConnection,
    runs_past: DateTime<Utc>,
    placed_by: DateTime<Utc>,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<BookingFacts>, sqlx::Error> {
    let lost = sqlx::query_scalar!(
        "select b.id from booking.bookings b
         where b.state = 'held' and b.ending is null and b.hold_until > $1
           and b.created_at <= $2 and b.total_minor > 0
           and not exists (select from notifier.public_notices n
                           where n.booking_id = b.id and n.kind = 'held')
           and not exists (select from booking.republished_news r
                           where r.booking_id = b.id and r.kind = 'held' and r.republished_at > $3)
         order by b.hold_until limit $4",
        runs_past,
        placed_by,
        now - REPUBLISH_AFTER,
        limit,
    );
    let lost = lost.fetch_all(&mut *conn).await?;
    claim_bookings(conn, Lost::Held, &lost, now).await
}

/// Claims bookings that were paid in the period.
pub(crate) async fn claim_paid(
    conn: &mut PgConnection,
    search: Search,
) -> Result<Vec<BookingFacts>, sqlx::Error> {
    let lost = sqlx::query_scalar!(
        "select b.id from booking.bookings b join booking.events e using (event_id)
         where b.state = 'confirmed' and b.captured_at > $1 and b.captured_at <= $2 and e.date > $3
           and not exists (select from notifier.public_notices n
                           where n.booking_id = b.id and n.kind = 'confirmed')
           and not exists (select from booking.republished_news r
                           where r.booking_id = b.id and r.kind = 'paid' and r.republished_at > $4)
         order by b.captured_at limit $5",
        search.from,
        search.to,
        search.begun(),
        search.republished(),
        search.limit,
    );
    let lost = lost.fetch_all(&mut *conn).await?;
    claim_bookings(conn, Lost::Paid, &lost, search.now).await
}

/// Claims bookings that expired or were cancelled in the period.
pub(crate) async fn claim_ends(
    conn: &mut PgConnection,
    search: Search,
) -> Result<Vec<BookingEnd>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select b.id, b.state, b.end_reason, c.cancelled_at as "cancelled_at?",
                  c.cancelled_by as "cancelled_by?"
           from booking.bookings b join booking.events e using (event_id)
           left join booking.cancellations c on c.booking_id = b.id
           where b.state in ('expired', 'cancelled')
             and b.updated_at > $1 and b.updated_at <= $2 and e.date > $3
             and not exists (select from notifier.public_notices n
                             where n.booking_id = b.id and n.account_id = b.account_id
                               and n.kind = b.state)
             and not exists (select from booking.republished_news r
                             where r.booking_id = b.id and r.kind = 'ended'
                               and r.republished_at > $4)
           order by b.updated_at limit $5"#,
        search.from,
        search.to,
        search.begun(),
        search.republished(),
        search.limit,
    );
    let rows = rows.fetch_all(&mut *conn).await?;
    let lost: Vec<_> = rows.iter().map(|row| row.id).collect();
    let claimed = claim_bookings(conn, Lost::Ended, &lost, search.now).await?;
    let mut claimed: HashMap<_, _> = by_id(claimed).collect();
    let ends = rows.into_iter().filter_map(|row| {
        let asked = row.cancelled_at.zip(row.cancelled_by);
        Some(BookingEnd {
            facts: claimed.remove(&BookingId(row.id))?,
            was_confirmed: row.cancelled_at.is_some(),
            is_expired: row.state == BookingState::Expired.as_str(),
            asked: asked.map(|(at, by)| CancelAsked {
                by: AccountId(by),
                at,
            }),
            reason: row.end_reason.as_deref().and_then(EndReason::parse),
        })
    });
    Ok(ends.collect())
}

/// Claims changes of codes in the period, by transfers or for their holders, of tickets that were
/// not changed again and still admit.
///
/// A holder has as many notices as changes: the number of a change alone tells nothing, since two
/// at once may have been counted in the other order.
pub(crate) async fn claim_transfers(
    conn: &mut PgConnection,
    search: Search,
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
               select t.booking_id, t.account_id, t.code, t.seat_id, h.sender, h.at,
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
           )
           select l.booking_id, l.number as "number!", l.sender as "sender!",
                  l.account_id as holder, l.code, l.seat_id
           from latest l
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
           order by l.at limit $5"#,
        search.from,
        search.to,
        search.begun(),
        search.republished(),
        search.limit,
    );
    let rows = rows.fetch_all(&mut *conn).await?;
    let changes: Vec<_> = rows
        .iter()
        .map(|row| (row.booking_id, row.number))
        .collect();
    let claimed = claim(conn, Lost::Transferred, &changes, search.now).await?;
    let bookings: Vec<_> = claimed.iter().map(|(id, _)| *id).collect();
    let bookings: HashMap<_, _> = by_id(bookings::facts(conn, &bookings).await?).collect();
    let transfers = rows.into_iter().filter_map(|row| {
        let id = BookingId(row.booking_id);
        let booking = bookings
            .get(&id)
            .filter(|_| claimed.contains(&(id, row.number)))?;
        let seat = SeatId(row.seat_id);
        let seat = booking.seats.iter().find(|booked| booked.id == seat)?;
        Some(TicketTransferred {
            booking: booking.clone(),
            ticket: TicketFacts {
                code: row.code,
                seat: seat.clone(),
            },
            from: AccountId(row.sender),
            to: AccountId(row.holder),
            number: row.number,
        })
    });
    Ok(transfers.collect())
}

fn by_id(bookings: Vec<BookingFacts>) -> impl Iterator<Item = (BookingId, BookingFacts)> {
    bookings.into_iter().map(|facts| (facts.booking_id, facts))
}

/// [`claim`] of messages of which a booking has one.
async fn claim_bookings(
    conn: &mut PgConnection,
    kind: Lost,
    lost: &[Uuid],
    now: DateTime<Utc>,
) -> Result<Vec<BookingFacts>, sqlx::Error> {
    let lost: Vec<_> = lost.iter().map(|id| (*id, 0)).collect();
    let claimed = claim(conn, kind, &lost, now).await?;
    let ids: Vec<_> = claimed.into_iter().map(|(id, _)| id).collect();
    bookings::facts(conn, &ids).await
}

/// Claims messages, by booking and number; returns those that no other worker has claimed
/// meanwhile.
async fn claim(
    conn: &mut PgConnection,
    kind: Lost,
    lost: &[(Uuid, i64)],
    now: DateTime<Utc>,
) -> Result<HashSet<(BookingId, i64)>, sqlx::Error> {
    if lost.is_empty() {
        return Ok(HashSet::new());
    }
    let (ids, numbers): (Vec<_>, Vec<_>) = lost.iter().copied().unzip();
    let rows = sqlx::query!(
        "insert into booking.republished_news as r (booking_id, kind, number, republished_at)
         select distinct id, $3::text, number, $4::timestamptz
         from unnest($1::uuid[], $2::bigint[]) as lost (id, number) order by id, number
         on conflict (booking_id, kind, number) do update
         set republished_at = excluded.republished_at where r.republished_at <= $5
         returning booking_id, number",
        &ids,
        &numbers,
        kind.label(),
        now,
        now - REPUBLISH_AFTER,
    );
    let rows = rows.fetch_all(conn).await?;
    let claimed = rows
        .into_iter()
        .map(|row| (BookingId(row.booking_id), row.number));
    Ok(claimed.collect())
}
