//! Retention: lines and passes of sales that ended long ago are deleted.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

/// Retention after the end of a sale: tokens and passes have expired, and support has had time.
const RETENTION: TimeDelta = TimeDelta::days(30);
/// Maximum number of rows of a table that one sweep deletes.
const SWEEP_LIMIT: i64 = 5_000;

/// Deletes a bounded batch of claims, ready lines and moves of sales past retention. Returns the
/// number of rows.
pub(crate) async fn sweep(db: &PgPool, now: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let ended = ended(db, now - RETENTION).await?;
    if ended.is_empty() {
        return Ok(0);
    }
    let claims = sqlx::query!(
        "delete from admission.claims where (event_id, place) in (
             select event_id, place from admission.claims
             where event_id = any($1) and over_at is not null limit $2)",
        &ended,
        SWEEP_LIMIT,
    );
    let mut removed = claims.execute(db).await?.rows_affected();
    let moves = sqlx::query!(
        "delete from admission.moves where (event_id, seq) in (
             select event_id, seq from admission.moves where event_id = any($1) limit $2)",
        &ended,
        SWEEP_LIMIT,
    );
    removed += moves.execute(db).await?.rows_affected();
    let ready = sqlx::query!(
        "delete from admission.ready where event_id = any($1)",
        &ended
    );
    removed += ready.execute(db).await?.rows_affected();
    let counts = sqlx::query!(
        "delete from admission.claim_counts where event_id = any($1)",
        &ended
    );
    removed += counts.execute(db).await?.rows_affected();
    Ok(removed)
}

/// Returns up to 100 sales that ended by `then` and have rows left.
async fn ended(db: &PgPool, then: DateTime<Utc>) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select event_id as "event_id!" from admission.public_ended e
           where ended_at <= $1
             and (exists (select from admission.claims c where c.event_id = e.event_id)
                  or exists (select from admission.moves m where m.event_id = e.event_id)
                  or exists (select from admission.ready r where r.event_id = e.event_id)
                  or exists (select from admission.claim_counts k where k.event_id = e.event_id))
           limit 100"#,
        then,
    )
    .fetch_all(db)
    .await
}
