//! Events, from box-office's view.

use std::collections::HashMap;

use domain::EventId;
use sqlx::{PgConnection, PgExecutor};
use uuid::Uuid;

/// Returns `true` if the event exists, cancelled or not.
pub(crate) async fn is_known(
    db: impl PgExecutor<'_>,
    event_id: EventId,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from box_office.public_events where event_id = $1) as "yes!""#,
        event_id.0
    )
    .fetch_one(db)
    .await
}

/// Token of this installation, for Stripe accounts that serve several.
pub(crate) async fn installation(db: impl PgExecutor<'_>) -> Result<Uuid, sqlx::Error> {
    sqlx::query_scalar!("select token from payment.installation")
        .fetch_one(db)
        .await
}

/// The currencies of the event's prices.
pub(crate) async fn currencies(
    db: impl PgExecutor<'_>,
    event_id: EventId,
) -> Result<Vec<String>, sqlx::Error> {
    let found = sqlx::query_scalar!(
        r#"select currencies as "currencies!" from box_office.public_events where event_id = $1"#,
        event_id.0
    );
    Ok(found.fetch_optional(db).await?.unwrap_or_default())
}

/// The names of these events; unknown ones are absent.
pub(crate) async fn names(
    conn: &mut PgConnection,
    event_ids: &[i64],
) -> Result<HashMap<i64, String>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select event_id as "event_id!", name as "name!"
           from box_office.public_events where event_id = any($1)"#,
        event_ids
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (row.event_id, row.name))
        .collect())
}
