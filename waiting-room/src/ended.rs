//! Periodic sweep of the numbers and leavings of sales that ended long ago.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use crate::state::AppState;

/// Retention after the end of a sale: tokens have expired, and support has had time.
const RETENTION: TimeDelta = TimeDelta::days(30);
/// Maximum number of rows of a table that one sweep deletes.
const SWEEP_LIMIT: i64 = 5_000;
const PERIOD: Duration = Duration::from_secs(600);

/// Sweeps until soft shutdown.
pub(crate) async fn run(state: Arc<AppState>) -> anyhow::Result<()> {
    let soft = state.ctx.shutdown.soft().clone();
    let mut ticks = tokio::time::interval(PERIOD);
    while soft.run_until_cancelled(ticks.tick()).await.is_some() {
        if let Err(error) = sweep(&state.ctx.db, state.ctx.clock.now()).await {
            tracing::warn!(%error, "failed to sweep numbers of ended sales");
        }
    }
    Ok(())
}

/// Deletes one bounded batch. The highest number of each line stays, so that none is issued twice.
async fn sweep(db: &PgPool, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    let ended = sqlx::query_scalar!(
        r#"select e.event_id as "event_id!" from admission.public_ended e
           where e.ended_at <= $1
             and (exists (select from waiting_room.numbers n where n.event_id = e.event_id)
                  or exists (select from waiting_room.leavings l where l.event_id = e.event_id))
           limit 100"#,
        now - RETENTION,
    )
    .fetch_all(db)
    .await?;
    if ended.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "delete from waiting_room.numbers where (event_id, account_id) in (
             select event_id, account_id from waiting_room.numbers
             where event_id = any($1) limit $2)",
        &ended,
        SWEEP_LIMIT,
    )
    .execute(db)
    .await?;
    sqlx::query!(
        "delete from waiting_room.leavings where (event_id, number) in (
             select event_id, number from waiting_room.leavings
             where event_id = any($1) limit $2)",
        &ended,
        SWEEP_LIMIT,
    )
    .execute(db)
    .await?;
    Ok(())
}
