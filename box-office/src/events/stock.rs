//! SQL over the booking worker's views of seats. An event it has not consumed yet is reported as
//! fully available.

use domain::sale::Stock;
use domain::{EventId, SectionId};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};

/// Stock of one section.
#[derive(Debug, Serialize)]
pub(super) struct SectionStock {
    section_id: SectionId,
    name: String,
    capacity: i32,
    pub(super) available: i32,
    held: i32,
    sold: i32,
}

/// Returns the stock of each section, in display order; empty for an unknown event.
pub(super) async fn by_section(
    pool: &PgPool,
    event_id: EventId,
) -> Result<Vec<SectionStock>, sqlx::Error> {
    let rows = sqlx::query!(
        "select section.id, section.name,
                coalesce(stock.capacity, section.capacity) as \"capacity!\",
                coalesce(stock.available, section.capacity) as \"available!\",
                coalesce(stock.held, 0) as \"held!\",
                coalesce(stock.sold, 0) as \"sold!\"
         from box_office.sections section
         left join booking.public_stock stock on stock.section_id = section.id
         where section.event_id = $1
         order by section.position",
        event_id.0,
    )
    .fetch_all(pool)
    .await?;
    let rows = rows.into_iter().map(|row| SectionStock {
        section_id: SectionId(row.id),
        name: row.name,
        capacity: row.capacity,
        available: row.available,
        held: row.held,
        sold: row.sold,
    });
    Ok(rows.collect())
}

/// Returns the stock of a whole event; `None` until the booking worker knows it.
pub(crate) async fn total(
    conn: &mut PgConnection,
    event_id: EventId,
) -> Result<Option<Stock>, sqlx::Error> {
    let row = sqlx::query!(
        "select sum(available) as available, sum(held) as held, sum(sold) as sold
         from booking.public_stock where event_id = $1",
        event_id.0,
    )
    .fetch_one(conn)
    .await?;
    Ok(match (row.available, row.held, row.sold) {
        (Some(available), Some(held), Some(sold)) => Some(Stock {
            available,
            held,
            sold,
        }),
        _ => None,
    })
}

/// Held and sold seats of a section, which a replacement of the event must still contain.
#[derive(Debug)]
pub(super) struct UnavailableSeats {
    pub(super) section_id: SectionId,
    pub(super) seats: u32,
    /// Labels of their rows; empty in an unnumbered section.
    pub(super) rows: Vec<String>,
    /// Highest seat number among them; 0 in an unnumbered section.
    pub(super) last_number: u32,
}

/// Returns held and sold seats by section; sections without any are left out.
pub(super) async fn unavailable(
    conn: &mut PgConnection,
    event_id: EventId,
) -> Result<Vec<UnavailableSeats>, sqlx::Error> {
    let rows = sqlx::query!(
        "select section_id as \"section_id!\", count(*) as \"seats!\",
                array_remove(array_agg(distinct row_label), null) as \"rows!\",
                coalesce(max(number), 0) as \"last_number!\"
         from booking.public_seats where event_id = $1 and state <> 'available'
         group by section_id",
        event_id.0,
    )
    .fetch_all(conn)
    .await?;
    let rows = rows.into_iter().map(|row| UnavailableSeats {
        section_id: SectionId(row.section_id),
        seats: u32::try_from(row.seats).unwrap_or(u32::MAX),
        rows: row.rows,
        last_number: u32::try_from(row.last_number).unwrap_or(u32::MAX),
    });
    Ok(rows.collect())
}

/// A row of a numbered section, or all seats of an unnumbered one.
#[derive(Debug)]
pub(super) struct RowOfSeats {
    pub(super) section_id: i64,
    pub(super) row_label: Option<String>,
    pub(super) first: Option<i32>,
    pub(super) states: String,
    pub(super) ids: Vec<i64>,
}

/// Returns every seat's id and the first letter of its state, row by row.
pub(super) async fn rows_of_seats(
    conn: &mut PgConnection,
    event_id: EventId,
) -> Result<Vec<RowOfSeats>, sqlx::Error> {
    sqlx::query_as!(
        RowOfSeats,
        "select section_id as \"section_id!\", row_label, min(number) as first,
                string_agg(left(state, 1), '' order by rank) as \"states!\",
                array_agg(id order by rank) as \"ids!\"
         from booking.public_seats where event_id = $1
         group by section_id, row_label
         order by section_id, min(rank)",
        event_id.0,
    )
    .fetch_all(conn)
    .await
}
