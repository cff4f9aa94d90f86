//! SQL of events and their sections.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::event::{Event, EventState, Section, Tier};
use domain::{AccountId, Currency, EventId, Money, SectionId};
use sqlx::PgConnection;

use super::draft::Draft;

#[derive(Debug, sqlx::FromRow)]
pub(super) struct EventRow {
    pub(super) id: i64,
    version: i64,
    name: String,
    date: DateTime<Utc>,
    capacity: i32,
    description: String,
    category: String,
    venue: String,
    city: String,
    country: String,
    time_zone: String,
    state: String,
    max_tickets_per_account: i32,
    reminder_before_seconds: Option<i32>,
    ticket_transfer: bool,
}

struct SectionRow {
    id: i64,
    event_id: i64,
    name: String,
    numbered: bool,
    capacity: i32,
    row_count: Option<i32>,
    seats_per_row: Option<i32>,
    tier: String,
    price_minor: i64,
    currency: String,
}

/// Error for a stored value that violates its column's constraint.
fn corrupt(what: &'static str) -> sqlx::Error {
    sqlx::Error::Decode(format!("box_office: {what} is out of its bounds").into())
}

fn unsigned(value: i32, what: &'static str) -> Result<u32, sqlx::Error> {
    u32::try_from(value).map_err(|_| corrupt(what))
}

/// Converts a number of a draft, whose bounds are far below 2^31.
fn signed(value: u32) -> i32 {
    i32::try_from(value).expect("the bounds of a draft fit in 31 bits")
}

impl EventRow {
    fn event(self, sections: Vec<Section>) -> Result<Event, sqlx::Error> {
        let state = match self.state.as_str() {
            "announced" => EventState::Announced,
            "cancelled" => EventState::Cancelled,
            _ => return Err(corrupt("events.state")),
        };
        let reminder = self.reminder_before_seconds;
        Ok(Event {
            id: EventId(self.id),
            version: self.version,
            name: self.name,
            date: self.date,
            capacity: unsigned(self.capacity, "events.capacity")?,
            description: self.description,
            category: self.category,
            venue: self.venue,
            city: self.city,
            country: self.country,
            time_zone: self.time_zone,
            state,
            max_tickets_per_account: unsigned(self.max_tickets_per_account, "events.max_tickets")?,
            reminder_before_seconds: reminder
                .map(|value| unsigned(value, "events.reminder_before_seconds"))
                .transpose()?,
            ticket_transfer: self.ticket_transfer,
            sections,
        })
    }
}

impl TryFrom<SectionRow> for Section {
    type Error = sqlx::Error;

    fn try_from(row: SectionRow) -> Result<Self, sqlx::Error> {
        let currency =
            Currency::try_from(row.currency).map_err(|_| corrupt("sections.currency"))?;
        let optional = |value: Option<i32>| value.map(|v| unsigned(v, "sections.rows")).transpose();
        Ok(Self {
            id: SectionId(row.id),
            name: row.name,
            numbered: row.numbered,
            capacity: unsigned(row.capacity, "sections.capacity")?,
            rows: optional(row.row_count)?,
            seats_per_row: optional(row.seats_per_row)?,
            tier: Tier {
                name: row.tier,
                price: Money::new(row.price_minor, currency),
            },
        })
    }
}

/// Returns the event with this id.
pub(crate) async fn get(
    conn: &mut PgConnection,
    id: EventId,
) -> Result<Option<Event>, sqlx::Error> {
    let row = sqlx::query_as!(
        EventRow,
        "select id, version, name, date, capacity, description, category, venue, city, country,
                time_zone, state, max_tickets_per_account, reminder_before_seconds, ticket_transfer
         from box_office.events where id = $1",
        id.0,
    )
    .fetch_optional(&mut *conn)
    .await?;
    match row {
        Some(row) => Ok(with_sections(conn, vec![row]).await?.pop()),
        None => Ok(None),
    }
}

/// Returns the event with this id, locked for update.
pub(super) async fn lock(
    conn: &mut PgConnection,
    id: EventId,
) -> Result<Option<Event>, sqlx::Error> {
    let locked = sqlx::query_scalar!(
        "select id from box_office.events where id = $1 for update",
        id.0
    )
    .fetch_optional(&mut *conn)
    .await?;
    if locked.is_none() {
        Ok(None)
    } else {
        get(conn, id).await
    }
}

/// Loads the sections of these rows, and returns the events in the same order.
pub(super) async fn with_sections(
    conn: &mut PgConnection,
    rows: Vec<EventRow>,
) -> Result<Vec<Event>, sqlx::Error> {
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let mut sections: HashMap<i64, Vec<Section>> = HashMap::new();
    let section_rows = sqlx::query_as!(
        SectionRow,
        "select id, event_id, name, numbered, capacity, row_count, seats_per_row, tier,
                price_minor, currency
         from box_office.sections where event_id = any($1) order by event_id, position",
        &ids,
    )
    .fetch_all(conn)
    .await?;
    for row in section_rows {
        sections
            .entry(row.event_id)
            .or_default()
            .push(row.try_into()?);
    }
    rows.into_iter()
        .map(|row| {
            let sections = sections.remove(&row.id).unwrap_or_default();
            row.event(sections)
        })
        .collect()
}

/// Inserts an event with its sections.
pub(super) async fn insert(
    conn: &mut PgConnection,
    draft: &Draft,
    created_by: AccountId,
    now: DateTime<Utc>,
) -> Result<EventId, sqlx::Error> {
    let id = sqlx::query_scalar!(
        "insert into box_office.events
             (name, date, capacity, description, category, venue, city, country, time_zone,
              max_tickets_per_account, reminder_before_seconds, created_by, created_at, updated_at,
              ticket_transfer)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,
                 (select id from box_office.accounts where id = $12), $13, $13, $14)
         returning id",
        draft.name,
        draft.date,
        signed(draft.capacity),
        draft.description,
        draft.category,
        draft.venue,
        draft.city,
        draft.country,
        draft.time_zone,
        signed(draft.max_tickets_per_account),
        draft.reminder_before_seconds.map(signed),
        created_by.0,
        now,
        draft.ticket_transfer,
    )
    .fetch_one(&mut *conn)
    .await?;
    put_sections(conn, EventId(id), &draft.sections).await?;
    Ok(EventId(id))
}

/// Updates an event and its sections. Sections are matched by name and keep their ids, unless
/// `numbered` changes.
pub(super) async fn replace(
    conn: &mut PgConnection,
    id: EventId,
    draft: &Draft,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update box_office.events
         set version = version + 1, name = $2, date = $3, capacity = $4, description = $5,
             category = $6, venue = $7, city = $8, country = $9, time_zone = $10,
             max_tickets_per_account = $11, reminder_before_seconds = $12, updated_at = $13,
             ticket_transfer = $14
         where id = $1",
        id.0,
        draft.name,
        draft.date,
        signed(draft.capacity),
        draft.description,
        draft.category,
        draft.venue,
        draft.city,
        draft.country,
        draft.time_zone,
        signed(draft.max_tickets_per_account),
        draft.reminder_before_seconds.map(signed),
        now,
        draft.ticket_transfer,
    )
    .execute(&mut *conn)
    .await?;
    let names: Vec<String> = draft
        .sections
        .iter()
        .map(|section| section.name.clone())
        .collect();
    let numbered: Vec<bool> = draft
        .sections
        .iter()
        .map(|section| section.numbered)
        .collect();
    sqlx::query!(
        "delete from box_office.sections
         where event_id = $1
           and (name, numbered) not in (select * from unnest($2::text[], $3::bool[]))",
        id.0,
        &names,
        &numbered,
    )
    .execute(&mut *conn)
    .await?;
    put_sections(conn, id, &draft.sections).await
}

/// Upserts sections by name.
async fn put_sections(
    conn: &mut PgConnection,
    event_id: EventId,
    sections: &[Section],
) -> Result<(), sqlx::Error> {
    fn column<T>(sections: &[Section], of: impl Fn(&Section) -> T) -> Vec<T> {
        sections.iter().map(of).collect()
    }
    sqlx::query!(
        "insert into box_office.sections
             (event_id, position, name, numbered, capacity, row_count, seats_per_row, tier,
              price_minor, currency)
         select $1, position - 1, name, numbered, capacity, row_count, seats_per_row, tier,
                price_minor, currency
         from unnest($2::text[], $3::bool[], $4::int[], $5::int[], $6::int[], $7::text[],
                     $8::bigint[], $9::text[]) with ordinality
              as s (name, numbered, capacity, row_count, seats_per_row, tier, price_minor,
                    currency, position)
         on conflict (event_id, name) do update
         set position = excluded.position, capacity = excluded.capacity, row_count = excluded.row_count,
             seats_per_row = excluded.seats_per_row, tier = excluded.tier,
             price_minor = excluded.price_minor, currency = excluded.currency",
        event_id.0,
        &column(sections, |s| s.name.clone()),
        &column(sections, |s| s.numbered),
        &column(sections, |s| signed(s.capacity)),
        &column(sections, |s| s.rows.map(signed)) as &[Option<i32>],
        &column(sections, |s| s.seats_per_row.map(signed)) as &[Option<i32>],
        &column(sections, |s| s.tier.name.clone()),
        &column(sections, |s| s.tier.price.amount_minor),
        &column(sections, |s| s.tier.price.currency.as_str().to_owned()),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Marks an event as cancelled; a no-op if it already is.
pub(super) async fn cancel(
    conn: &mut PgConnection,
    id: EventId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update box_office.events set state = 'cancelled', version = version + 1, updated_at = $2
         where id = $1 and state = 'announced'",
        id.0,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}
