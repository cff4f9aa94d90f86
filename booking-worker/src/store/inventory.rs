//! Events, sales, sections and which seats there are.

use domain::SectionId;
use domain::event::{Event, EventState, row_label};
use domain::sale::{SaleSettings, Stock};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

/// The rows of a numbered section.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    /// The section.
    pub(crate) section_id: SectionId,
    /// How many rows.
    pub(crate) rows: u32,
    /// How many seats in each.
    pub(crate) per_row: u32,
}

/// Keeps an event. `false` when this version or a later one was kept before.
pub(crate) async fn put_event(conn: &mut PgConnection, event: &Event) -> Result<bool, sqlx::Error> {
    let written = sqlx::query!(
        "insert into booking.events as e (event_id, version, name, date, cancelled, max_tickets_per_account,
                                          ticket_transfer)
         values ($1, $2, $3, $4, $5, $6, $7)
         on conflict (event_id) do update
         set version = excluded.version, name = excluded.name, date = excluded.date,
             cancelled = excluded.cancelled, max_tickets_per_account = excluded.max_tickets_per_account,
             ticket_transfer = excluded.ticket_transfer
         where e.version < excluded.version",
        event.id.0,
        event.version,
        event.name,
        event.date,
        event.state == EventState::Cancelled,
        integer(event.max_tickets_per_account),
        event.ticket_transfer,
    )
    .execute(conn)
    .await?;
    Ok(written.rows_affected() == 1)
}

/// Keeps a sale, unless this version or a later one was kept before.
pub(crate) async fn put_sale(
    conn: &mut PgConnection,
    sale: &SaleSettings,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into booking.sales as s (event_id, version, settings) values ($1, $2, $3)
         on conflict (event_id) do update set version = excluded.version, settings = excluded.settings
         where s.version < excluded.version",
        sale.event_id.0,
        sale.version,
        Json(sale) as _,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Keeps the sections of an event. Whether one is numbered never changes.
pub(crate) async fn put_sections(
    conn: &mut PgConnection,
    event: &Event,
) -> Result<(), sqlx::Error> {
    let sections = &event.sections;
    let ids: Vec<_> = sections.iter().map(|section| section.id.0).collect();
    let names: Vec<_> = sections
        .iter()
        .map(|section| section.name.clone())
        .collect();
    let tiers: Vec<_> = sections
        .iter()
        .map(|section| section.tier.name.clone())
        .collect();
    let numbered: Vec<_> = sections.iter().map(|section| section.numbered).collect();
    let prices: Vec<_> = sections
        .iter()
        .map(|section| section.tier.price.amount_minor)
        .collect();
    let currencies: Vec<_> = sections
        .iter()
        .map(|section| section.tier.price.currency.to_string())
        .collect();
    sqlx::query!(
        "insert into booking.sections
             (section_id, event_id, position, name, numbered, price_minor, currency, tier_name)
         select id, $1, position - 1, name, numbered, price, currency, tier
         from unnest($2::bigint[], $3::text[], $4::boolean[], $5::bigint[], $6::text[], $7::text[])
              with ordinality as new (id, name, numbered, price, currency, tier, position)
         on conflict (section_id) do update
         set position = excluded.position, name = excluded.name, tier_name = excluded.tier_name,
             price_minor = excluded.price_minor,
             currency = excluded.currency, offered = true",
        event.id.0,
        &ids,
        &names,
        &numbered,
        &prices,
        &currencies,
        &tiers,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Takes sections the event no longer has off the sale, and removes their free seats.
pub(crate) async fn withdraw_sections(
    conn: &mut PgConnection,
    event: &Event,
) -> Result<(), sqlx::Error> {
    let kept: Vec<_> = event.sections.iter().map(|section| section.id.0).collect();
    sqlx::query!(
        "update booking.sections set offered = false
         where event_id = $1 and offered and section_id <> all($2)",
        event.id.0,
        &kept,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "delete from booking.seats s using booking.sections c
         where c.event_id = $1 and not c.offered and s.section_id = c.section_id and s.state = 'available'",
        event.id.0,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Adds the seats that grids lack.
pub(crate) async fn fill_grids(conn: &mut PgConnection, grids: &[Grid]) -> Result<(), sqlx::Error> {
    let labels: Vec<_> = (0..grids.iter().map(|grid| grid.rows).max().unwrap_or(0))
        .map(row_label)
        .collect();
    let (ids, rows, per_row) = columns(grids);
    sqlx::query!(
        "insert into booking.seats (section_id, rank, row_label, number)
         select g.section_id, r.index * 1000 + n.number - 1, ($4::text[])[r.index + 1], n.number
         from unnest($1::bigint[], $2::integer[], $3::integer[]) as g (section_id, rows, per_row)
         cross join lateral generate_series(0, g.rows - 1) as r (index)
         cross join lateral generate_series(1, g.per_row) as n (number)
         on conflict (section_id, rank) do nothing",
        &ids,
        &rows,
        &per_row,
        &labels,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes the free seats that lie outside their grids.
pub(crate) async fn remove_outside(
    conn: &mut PgConnection,
    grids: &[Grid],
) -> Result<(), sqlx::Error> {
    let (ids, rows, per_row) = columns(grids);
    sqlx::query!(
        "delete from booking.seats s
         using unnest($1::bigint[], $2::integer[], $3::integer[]) as g (section_id, rows, per_row)
         where s.section_id = g.section_id and s.state = 'available'
           and (s.rank / 1000 >= g.rows or s.number > g.per_row)",
        &ids,
        &rows,
        &per_row,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Adds places to general-admission sections below their capacity.
pub(crate) async fn add_missing(
    conn: &mut PgConnection,
    capacities: &[(SectionId, u32)],
) -> Result<(), sqlx::Error> {
    let (ids, wanted) = capacity_columns(capacities);
    sqlx::query!(
        "insert into booking.seats (section_id, rank)
         select c.section_id, top.rank + n.index
         from unnest($1::bigint[], $2::integer[]) as wanted (section_id, capacity)
         join booking.sections c using (section_id)
         cross join lateral (
             select coalesce(max(s.rank), -1) as rank from booking.seats s where s.section_id = c.section_id
         ) top
         cross join lateral generate_series(1, wanted.capacity - c.capacity) as n (index)",
        &ids,
        &wanted,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Removes free places, the last first, from general-admission sections above their capacity.
pub(crate) async fn remove_surplus(
    conn: &mut PgConnection,
    capacities: &[(SectionId, u32)],
) -> Result<(), sqlx::Error> {
    let (ids, wanted) = capacity_columns(capacities);
    sqlx::query!(
        "delete from booking.seats where id in (
             select s.id
             from unnest($1::bigint[], $2::integer[]) as wanted (section_id, capacity)
             join booking.sections c using (section_id)
             cross join lateral (
                 select id from booking.seats
                 where section_id = c.section_id and state = 'available'
                 order by rank desc limit greatest(c.capacity - wanted.capacity, 0)
                 for update skip locked
             ) s
         )",
        &ids,
        &wanted,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// How many seats of all events are in which state.
pub(crate) async fn stock(pool: &PgPool) -> Result<Stock, sqlx::Error> {
    let row = sqlx::query!(
        r#"select coalesce(sum(available), 0) as "available!", coalesce(sum(held), 0) as "held!",
                  coalesce(sum(sold), 0) as "sold!"
           from booking.sections where offered"#,
    )
    .fetch_one(pool)
    .await?;
    Ok(Stock {
        available: row.available,
        held: row.held,
        sold: row.sold,
    })
}

fn integer(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn columns(grids: &[Grid]) -> (Vec<i64>, Vec<i32>, Vec<i32>) {
    let ids = grids.iter().map(|grid| grid.section_id.0).collect();
    let rows = grids.iter().map(|grid| integer(grid.rows)).collect();
    (
        ids,
        rows,
        grids.iter().map(|grid| integer(grid.per_row)).collect(),
    )
}

fn capacity_columns(capacities: &[(SectionId, u32)]) -> (Vec<i64>, Vec<i32>) {
    let ids = capacities.iter().map(|(id, _)| id.0).collect();
    (
        ids,
        capacities
            .iter()
            .map(|(_, capacity)| integer(*capacity))
            .collect(),
    )
}
