//! Periodic sweeps of old requests, idempotency records and ended sales.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use platform::idempotency;
use sqlx::PgPool;

use crate::state::AppState;
use crate::store;

const PERIOD: Duration = Duration::from_secs(600);
/// Maximum number of statements per period that remove rows of ended sales.
const MAX_SWEEPS: usize = 200;

/// Sweeps expired requests and idempotency records, and rows of sales that ended long ago, until
/// soft shutdown.
pub(crate) async fn run(state: Arc<AppState>) -> anyhow::Result<()> {
    let soft = state.ctx.shutdown.soft().clone();
    let mut ticks = tokio::time::interval(PERIOD);
    while soft.run_until_cancelled(ticks.tick()).await.is_some() {
        let (db, now) = (&state.ctx.db, state.ctx.clock.now());
        while !soft.is_cancelled() {
            match store::requests::sweep(db, now).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "failed to sweep booking requests");
                    break;
                }
            }
        }
        if let Err(error) = idempotency::sweep(db, now).await {
            tracing::warn!(%error, "failed to sweep idempotency records");
        }
        if let Err(error) = sweep_ended(db, now).await {
            tracing::warn!(%error, "failed to sweep ended sales");
        }
    }
    Ok(())
}

/// Removes rows of ended sales in bounded statements, until none are left or [`MAX_SWEEPS`] ran.
async fn sweep_ended(db: &PgPool, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    for _ in 0..MAX_SWEEPS {
        if store::ended::sweep(db, now).await? == 0 {
            break;
        }
    }
    Ok(())
}
