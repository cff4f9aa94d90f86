//! Sales, as box-office told them.

use chrono::{DateTime, Utc};
use domain::sale::SaleSettings;
use sqlx::PgPool;
use sqlx::types::Json;

/// The database's time, by which rows are stamped.
pub(crate) async fn now(db: &PgPool) -> Result<DateTime<Utc>, sqlx::Error> {
    sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#)
        .fetch_one(db)
        .await
}

/// Every sale.
pub(crate) async fn all(db: &PgPool) -> Result<Vec<SaleSettings>, sqlx::Error> {
    let rows = sqlx::query_scalar!(
        r#"select settings as "settings: Json<SaleSettings>" from admission.sales"#
    );
    Ok(rows
        .fetch_all(db)
        .await?
        .into_iter()
        .map(|row| row.0)
        .collect())
}

/// Sales stored after `since`.
pub(crate) async fn changed_since(
    db: &PgPool,
    since: DateTime<Utc>,
) -> Result<Vec<SaleSettings>, sqlx::Error> {
    let rows = sqlx::query_scalar!(
        r#"select settings as "settings: Json<SaleSettings>" from admission.sales
           where updated_at > $1"#,
        since,
    );
    Ok(rows
        .fetch_all(db)
        .await?
        .into_iter()
        .map(|row| row.0)
        .collect())
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
