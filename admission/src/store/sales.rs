//! SQL of `admission.sales`: settings received from box-office.

use domain::EventId;
use domain::sale::SaleSettings;
use sqlx::PgPool;
use sqlx::types::Json;

use super::position::ReadPosition;

/// Returns the sales that changed after `since`, all for `None`, and the new read position.
pub(crate) async fn changed(
    db: &PgPool,
    since: Option<&ReadPosition>,
) -> Result<(ReadPosition, Vec<SaleSettings>), sqlx::Error> {
    let reading = ReadPosition::begin(db).await?;
    let rows = sqlx::query!(
        "select event_id, settings::text from admission.sales
         where changed_in >= $1::text::xid8",
        reading.first_unseen(since),
    );
    let rows = rows.fetch_all(db).await?.into_iter();
    let read = rows.filter_map(|row| readable(row.event_id, row.settings.as_deref()));
    Ok((reading, read.collect()))
}

/// Returns the sales of those `events` that have one.
pub(crate) async fn of(db: &PgPool, events: &[EventId]) -> Result<Vec<SaleSettings>, sqlx::Error> {
    let ids: Vec<i64> = events.iter().map(|event| event.0).collect();
    let rows = sqlx::query!(
        "select event_id, settings::text from admission.sales where event_id = any($1)",
        &ids,
    );
    let rows = rows.fetch_all(db).await?.into_iter();
    let read = rows.filter_map(|row| readable(row.event_id, row.settings.as_deref()));
    Ok(read.collect())
}

/// Parses settings; those of a newer version may be unreadable and are skipped.
fn readable(event_id: i64, settings: Option<&str>) -> Option<SaleSettings> {
    serde_json::from_str(settings.unwrap_or_default())
        .inspect_err(|error| tracing::error!(event_id, %error, "unreadable settings of a sale"))
        .ok()
}

/// Upserts a sale, unless the same or a newer version is stored.
pub(crate) async fn put(db: &PgPool, sale: &SaleSettings) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into admission.sales (event_id, version, settings) values ($1, $2, $3)
         on conflict (event_id) do update
         set version = excluded.version, settings = excluded.settings,
             updated_at = clock_timestamp()
         where sales.version < excluded.version",
        sale.event_id.0,
        sale.version,
        Json(sale) as _,
    )
    .execute(db)
    .await?;
    Ok(())
}
