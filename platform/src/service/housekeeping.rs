//! What every process does beside its work.

use std::time::Duration;

use super::Context;
use crate::{idempotency, telemetry};

/// How often expired idempotency keys are removed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

pub(super) fn spawn(ctx: &Context) {
    let task = ctx.clone();
    ctx.spawn("housekeeping", async move {
        let work = async {
            tokio::join!(
                task.limits.sweep(),
                task.lines.refresh(),
                telemetry::run_upkeep(),
                sweep_keys(&task)
            )
        };
        task.shutdown.soft().run_until_cancelled(work).await;
        Ok(())
    });
}

async fn sweep_keys(ctx: &Context) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        // It waits for the next round: keys that stay too long do no harm.
        if let Err(error) = idempotency::sweep(&ctx.db, ctx.clock.now()).await {
            tracing::warn!(%error, "expired idempotency keys were not removed");
        }
    }
}
