//! Sales, as box-office told them.

use domain::EventId;
use domain::sale::SaleSettings;
use sqlx::PgPool;
use sqlx::types::Json;

use super::reading::Reading;

/// The sales that changed after the reading `since`; all for `None`. And this reading.
pub(crate) async fn changed(
    db: &PgPool,
    since: Option<&Reading>,
) -> Result<(Reading, Vec<SaleSettings>), sqlx::Error> {
    let reading = Reading::begin(db).await?;
    let rows = sqlx::query!(
        "select event_id, settings::text from admission.sales
         where changed_in >= $1::text::xid8",
        reading.first_unseen(since),
    );
    let rows = rows.fetch_all(db).await?.into_iter();
    let read = rows.filter_map(|row| readable(row.event_id, row.settings.as_deref()));
    Ok((reading, read.collect()))
}

/// Those of `events` that there are.
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

/// Settings of a later version may not be readable: the other sales go on.
fn readable(event_id: i64, settings: Option<&str>) -> Option<SaleSettings> {
    serde_json::from_str(settings.unwrap_or_default())
        .inspect_err(|error| tracing::error!(event_id, %error, "unreadable settings of a sale"))
        .ok()
}

/// Stores a sale unless the same or a later version is there.
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
