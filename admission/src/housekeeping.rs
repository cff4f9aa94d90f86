//! Removes what nobody needs any more.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use platform::idempotency;
use sqlx::PgPool;

use crate::{Desk, store};

/// How often.
const PERIOD: Duration = Duration::from_secs(600);
/// How many statements' worth of rows of ended sales are removed each time.
const MAX_SWEEPS: usize = 200;

/// Removes old requests and answers, and what is left of sales that ended long ago, until soft
/// shutdown.
pub(crate) async fn run(desk: Arc<Desk>) -> anyhow::Result<()> {
    let soft = desk.ctx.shutdown.soft().clone();
    let mut ticks = tokio::time::interval(PERIOD);
    while soft.run_until_cancelled(ticks.tick()).await.is_some() {
        let (db, now) = (&desk.ctx.db, desk.ctx.clock.now());
        while !soft.is_cancelled() {
            match store::requests::sweep(db, now).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, "old booking requests were not removed");
                    break;
                }
            }
        }
        if let Err(error) = idempotency::sweep(db, now).await {
            tracing::warn!(%error, "old answers were not removed");
        }
        if let Err(error) = sweep_ended(db, now).await {
            tracing::warn!(%error, "what is left of ended sales was not removed");
        }
    }
    Ok(())
}

/// Removes what is left of ended sales, so many rows in a statement, until nothing is left or it
/// has done enough for this time.
async fn sweep_ended(db: &PgPool, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
    for _ in 0..MAX_SWEEPS {
        if store::ended::sweep(db, now).await? == 0 {
            break;
        }
    }
    Ok(())
}
