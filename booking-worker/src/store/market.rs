//! Snapshot of the stock that a batch is decided on. Nothing is locked: the guards of the write
//! detect what has changed.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, TimeDelta, Utc};
use domain::booking::Wish;
use domain::message::PlaceHold;
use domain::sale::SaleSettings;
use domain::{AccountId, BookingId, EventId, Money, SeatId, SectionId};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::bookings::currency;
use crate::choose::FreeSeat;
use crate::market::{Market, NamedSeat, Section, Terms, UNPAID_COUNTS_FOR, Unpaid};

/// Age of the oldest requests whose holds are looked at. More than a hold can last, with its
/// extension, and [`UNPAID_COUNTS_FOR`] together.
const OLDEST_UNPAID: TimeDelta = TimeDelta::hours(12);

/// Reads terms, sections, counts and named seats for `requests`, but no free seats.
pub(crate) async fn read(
    conn: &mut PgConnection,
    requests: &[&PlaceHold],
    now: DateTime<Utc>,
) -> Result<Market, sqlx::Error> {
    let mut events: Vec<_> = requests.iter().map(|request| request.event_id.0).collect();
    events.sort_unstable();
    events.dedup();
    Ok(Market {
        terms: terms(conn, &events, now).await?,
        sections: sections(conn, &events).await?,
        owned: owned(conn, requests).await?,
        unpaid: unpaid(conn, requests, now).await?,
        named: named(conn, requests).await?,
    })
}

/// Terms of the events that are known together with their sale.
async fn terms(
    conn: &mut PgConnection,
    events: &[i64],
    now: DateTime<Utc>,
) -> Result<HashMap<EventId, Terms>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select e.event_id, e.date, e.cancelled, e.max_tickets_per_account,
                  s.settings as "sale: Json<SaleSettings>"
           from booking.events e join booking.sales s using (event_id)
           where e.event_id = any($1)"#,
        events,
    )
    .fetch_all(conn)
    .await?;
    let terms = rows.into_iter().map(|row| {
        let sale = SaleSettings {
            event_starts_at: Some(row.date),
            ..row.sale.0
        };
        let terms = Terms {
            is_bookable: !row.cancelled && sale.takes_bookings_at(now),
            limit: u32::try_from(row.max_tickets_per_account).unwrap_or(0),
            hold: TimeDelta::seconds(sale.hold_seconds.into()),
        };
        (EventId(row.event_id), terms)
    });
    Ok(terms.collect())
}

async fn sections(
    conn: &mut PgConnection,
    events: &[i64],
) -> Result<HashMap<EventId, Vec<Section>>, sqlx::Error> {
    let rows = sqlx::query!(
        // No more than its layout has: the seats beyond it were taken when it shrank.
        r#"select event_id as "event_id!", section_id as "section_id!", name as "name!",
                  tier_name as "tier_name!", numbered as "numbered!",
                  price_minor as "price_minor!", currency as "currency!",
                  case when numbered then available
                       else least(available, greatest(coalesce(wanted, capacity) - held - sold, 0))
                  end as "available!"
           from booking.layouts where event_id = any($1) and offered
           order by event_id, position, section_id"#,
        events,
    )
    .fetch_all(conn)
    .await?;
    let mut sections: HashMap<_, Vec<_>> = HashMap::new();
    for row in rows {
        sections
            .entry(EventId(row.event_id))
            .or_default()
            .push(Section {
                id: SectionId(row.section_id),
                name: row.name,
                tier: row.tier_name,
                numbered: row.numbered,
                price: Money::new(row.price_minor, currency(&row.currency)),
                available: u32::try_from(row.available).unwrap_or(0),
                free: Vec::new(),
                is_complete: false,
            });
    }
    Ok(sections)
}

async fn owned(
    conn: &mut PgConnection,
    requests: &[&PlaceHold],
) -> Result<HashMap<(EventId, AccountId), u32>, sqlx::Error> {
    let events: Vec<_> = requests.iter().map(|request| request.event_id.0).collect();
    let accounts: Vec<_> = requests
        .iter()
        .map(|request| request.account_id.0)
        .collect();
    let rows = sqlx::query!(
        r#"select event_id, account_id, tickets + given_away as "tickets!" from booking.account_tickets
         where (event_id, account_id) in (select * from unnest($1::bigint[], $2::bigint[]))"#,
        &events,
        &accounts,
    )
    .fetch_all(conn)
    .await?;
    let owned = rows.into_iter().map(|row| {
        let owner = (EventId(row.event_id), AccountId(row.account_id));
        (owner, u32::try_from(row.tickets).unwrap_or(0))
    });
    Ok(owned.collect())
}

/// Unpaid holds of the requesting accounts, without those that ended because Stripe takes no
/// payments. A hold that is about to end, or whose time is over, counts.
async fn unpaid(
    conn: &mut PgConnection,
    requests: &[&PlaceHold],
    now: DateTime<Utc>,
) -> Result<HashMap<(EventId, AccountId), Unpaid>, sqlx::Error> {
    let events: Vec<_> = requests.iter().map(|request| request.event_id.0).collect();
    let accounts: Vec<_> = requests
        .iter()
        .map(|request| request.account_id.0)
        .collect();
    let rows = sqlx::query!(
        // Newest first. The limit makes it a range scan of each account's bookings, also in a plan
        // that was made while the table was empty.
        r#"select b.event_id, b.account_id, b.hold_until as "hold_until!",
                  b.state = 'confirmed' as "is_paid!"
           from (select distinct * from unnest($1::bigint[], $2::bigint[]))
                as asking (event_id, account_id)
           cross join lateral (
               select * from booking.bookings
               where account_id = asking.account_id and id >= $3 and state <> 'rejected'
               order by id desc limit 100) b
           where b.event_id = asking.event_id
             and (b.state = 'confirmed' and b.total_minor > 0
                  or b.state in ('expired', 'cancelled') and b.captured_at is null
                     and b.end_reason is null
                  or b.state = 'held' and (b.ending is not null or b.hold_until <= $4))
           order by b.id desc"#,
        &events,
        &accounts,
        BookingId::least_at(now - OLDEST_UNPAID).0,
        now,
    )
    .fetch_all(conn)
    .await?;
    let mut unpaid: HashMap<_, Unpaid> = HashMap::new();
    let mut has_paid = HashSet::new();
    for row in rows {
        let owner = (EventId(row.event_id), AccountId(row.account_id));
        if row.is_paid {
            has_paid.insert(owner);
        } else if !has_paid.contains(&owner) && row.hold_until > now - UNPAID_COUNTS_FOR {
            unpaid.entry(owner).or_default().add(row.hold_until, now);
        }
    }
    Ok(unpaid)
}

async fn named(
    conn: &mut PgConnection,
    requests: &[&PlaceHold],
) -> Result<HashMap<SeatId, NamedSeat>, sqlx::Error> {
    let wishes = requests.iter().filter_map(|request| match &request.wish {
        Wish::Seats(ids) => Some(ids),
        Wish::Best(_) | Wish::Mixed(_) => None,
    });
    let ids: Vec<_> = wishes.flatten().map(|id| id.0).collect();
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let rows = sqlx::query!(
        r#"select s.id, s.section_id, s.rank, s.row_label, s.number,
                  s.state = 'available'
                      and (l.rows is null or s.rank / 1000 < l.rows and s.number <= l.seats_per_row)
                      as "is_free!"
           from booking.seats s join booking.layouts l using (section_id) where s.id = any($1)"#,
        &ids,
    )
    .fetch_all(conn)
    .await?;
    let named = rows.into_iter().map(|row| {
        let id = SeatId(row.id);
        let seat = FreeSeat {
            id,
            rank: row.rank,
            row: row.row_label,
            number: row.number,
        };
        (
            id,
            NamedSeat {
                section_id: SectionId(row.section_id),
                seat,
                is_free: row.is_free,
            },
        )
    });
    Ok(named.collect())
}

/// Reads into `market` the foremost free seats of each section in `demand`, as many as it says.
pub(crate) async fn read_free_seats(
    conn: &mut PgConnection,
    market: &mut Market,
    demand: &HashMap<SectionId, u32>,
) -> Result<(), sqlx::Error> {
    let ids: Vec<_> = demand.keys().map(|id| id.0).collect();
    let limits: Vec<_> = demand.values().map(|limit| i64::from(*limit)).collect();
    let rows = sqlx::query!(
        "select s.section_id, s.id, s.rank, s.row_label, s.number
         from unnest($1::bigint[], $2::bigint[]) as wanted (section_id, seats)
         join booking.layouts l using (section_id)
         cross join lateral (
             select * from booking.seats s
             where s.section_id = wanted.section_id and s.state = 'available'
               and (l.rows is null or s.rank / 1000 < l.rows and s.number <= l.seats_per_row)
             order by s.rank limit wanted.seats
         ) s
         order by s.section_id, s.rank",
        &ids,
        &limits,
    )
    .fetch_all(conn)
    .await?;
    let mut free: HashMap<_, Vec<_>> = HashMap::new();
    for row in rows {
        let id = SeatId(row.id);
        let seat = FreeSeat {
            id,
            rank: row.rank,
            row: row.row_label,
            number: row.number,
        };
        free.entry(SectionId(row.section_id))
            .or_default()
            .push(seat);
    }
    for section in market.sections.values_mut().flatten() {
        let Some(limit) = demand.get(&section.id) else {
            continue;
        };
        section.free = free.remove(&section.id).unwrap_or_default();
        section.is_complete = u32::try_from(section.free.len()).is_ok_and(|read| read < *limit);
    }
    Ok(())
}
