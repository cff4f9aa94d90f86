//! Reads stock from the booking worker's public view.

use domain::EventId;
use domain::sale::Stock;
use sqlx::PgPool;

/// Returns the stock of `events`; those unknown to the booking worker are left out.
pub(crate) async fn of(
    db: &PgPool,
    events: &[EventId],
) -> Result<Vec<(EventId, Stock)>, sqlx::Error> {
    let ids: Vec<i64> = events.iter().map(|event| event.0).collect();
    let rows = sqlx::query!(
        r#"select event_id as "event_id!", sum(available)::bigint as "available!",
                  sum(held)::bigint as "held!", sum(sold)::bigint as "sold!"
           from booking.public_stock where event_id = any($1) group by event_id"#,
        &ids,
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let stock = Stock {
                available: row.available,
                held: row.held,
                sold: row.sold,
            };
            (EventId(row.event_id), stock)
        })
        .collect())
}
