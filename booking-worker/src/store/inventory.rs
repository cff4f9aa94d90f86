//! Events, sales, sections and their seats.

use domain::SectionId;
use domain::event::{Event, EventState, Section, row_label};
use domain::sale::{SaleSettings, Stock};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

/// The grid of a numbered section.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grid {
    pub(crate) section_id: SectionId,
    pub(crate) rows: u32,
    pub(crate) per_row: u32,
}

/// Inserts or updates an event; `false` when this version or a later one is stored.
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

/// Inserts or updates a sale, unless this version or a later one is stored.
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

/// Inserts or updates an event's sections with their layouts. Whether one is numbered never
/// changes.
pub(crate) async fn put_sections(
    conn: &mut PgConnection,
    event: &Event,
) -> Result<(), sqlx::Error> {
    let mut rows = Columns::default();
    event.sections.iter().for_each(|section| rows.push(section));
    sqlx::query!(
        "insert into booking.sections
             (section_id, event_id, position, name, numbered, price_minor, currency, tier_name,
              layout_version, layout_capacity, layout_rows, layout_seats_per_row)
         select id, $1, position - 1, name, numbered, price, currency, tier, $8, capacity, rows, seats_per_row
         from unnest($2::bigint[], $3::text[], $4::boolean[], $5::bigint[], $6::text[], $7::text[],
                     $9::integer[], $10::integer[], $11::integer[])
              with ordinality as new (id, name, numbered, price, currency, tier, capacity, rows,
                                      seats_per_row, position)
         on conflict (section_id) do update
         set position = excluded.position, name = excluded.name, tier_name = excluded.tier_name,
             price_minor = excluded.price_minor, currency = excluded.currency, offered = true,
             layout_version = excluded.layout_version, layout_capacity = excluded.layout_capacity,
             layout_rows = excluded.layout_rows, layout_seats_per_row = excluded.layout_seats_per_row",
        event.id.0,
        &rows.ids,
        &rows.names,
        &rows.numbered,
        &rows.prices,
        &rows.currencies,
        &rows.tiers,
        event.version,
        &rows.capacities,
        rows.rows.as_slice() as &[Option<i32>],
        rows.seats_per_row.as_slice() as &[Option<i32>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Sections as arrays.
#[derive(Default)]
struct Columns {
    ids: Vec<i64>,
    names: Vec<String>,
    numbered: Vec<bool>,
    prices: Vec<i64>,
    currencies: Vec<String>,
    tiers: Vec<String>,
    capacities: Vec<i32>,
    rows: Vec<Option<i32>>,
    seats_per_row: Vec<Option<i32>>,
}

impl Columns {
    fn push(&mut self, section: &Section) {
        let price = &section.tier.price;
        self.ids.push(section.id.0);
        self.names.push(section.name.clone());
        self.numbered.push(section.numbered);
        self.prices.push(price.amount_minor);
        self.currencies.push(price.currency.to_string());
        self.tiers.push(section.tier.name.clone());
        let grid = section.rows.zip(section.seats_per_row);
        match grid.filter(|_| section.numbered) {
            Some((rows, per_row)) => {
                self.capacities.push(integer(rows.saturating_mul(per_row)));
                self.rows.push(Some(integer(rows)));
                self.seats_per_row.push(Some(integer(per_row)));
            }
            None => {
                self.capacities.push(integer(section.capacity));
                self.rows.push(None);
                self.seats_per_row.push(None);
            }
        }
    }
}

/// Withdraws sections that the event no longer has: off the sale, with a layout of no seats.
/// Returns all that are withdrawn, now or before.
pub(crate) async fn withdraw_sections(
    conn: &mut PgConnection,
    event: &Event,
) -> Result<Vec<i64>, sqlx::Error> {
    let offered: Vec<_> = event.sections.iter().map(|section| section.id.0).collect();
    sqlx::query_scalar!(
        "update booking.sections
         set offered = false, layout_version = $3, layout_capacity = 0,
             layout_rows = case when numbered then 0 end,
             layout_seats_per_row = case when numbered then 0 end
         where event_id = $1 and section_id <> all($2)
         returning section_id",
        event.id.0,
        &offered,
        event.version,
    )
    .fetch_all(conn)
    .await
}

/// Inserts the seats that grids lack.
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

/// Inserts the places that general-admission sections lack.
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

/// Counts the seats of all events by state.
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
