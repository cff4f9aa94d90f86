//! Sweep of ended sessions, expired sign-in attempts and networks not seen for long, in batches.

use std::time::Duration;

use platform::service::Context;

use super::{attempts, store};

/// Interval between two sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// Rows deleted by one statement, so that none locks an unbounded set.
const SWEEP_BATCH: u32 = 1_000;

/// Sweeps every ten minutes until soft shutdown.
///
/// # Errors
/// Never: a failure is logged, and retried at the next interval.
pub(crate) async fn run(ctx: Context) -> anyhow::Result<()> {
    let sweeping = sweep_at_intervals(&ctx);
    ctx.shutdown.soft().run_until_cancelled(sweeping).await;
    Ok(())
}

async fn sweep_at_intervals(ctx: &Context) {
    loop {
        sweep(ctx).await;
        tokio::time::sleep(SWEEP_EVERY).await;
    }
}

async fn sweep(ctx: &Context) {
    let (db, now, limit) = (&ctx.db, ctx.clock.now(), i64::from(SWEEP_BATCH));
    match in_batches(|| store::delete_ended_sessions(db, now, limit)).await {
        Ok(0) => {}
        Ok(sessions) => tracing::info!(sessions, "deleted ended sessions"),
        Err(error) => tracing::warn!(%error, "failed to delete ended sessions"),
    }
    if let Err(error) = in_batches(|| attempts::delete_expired(db, now, limit)).await {
        tracing::warn!(%error, "failed to delete expired sign-in attempts");
    }
    if let Err(error) = in_batches(|| attempts::delete_places(db, now, limit)).await {
        tracing::warn!(%error, "failed to delete networks of accounts");
    }
}

/// Repeats `batch` until one deletes fewer than [`SWEEP_BATCH`] rows, and returns the sum.
async fn in_batches<F>(batch: impl Fn() -> F) -> Result<u64, sqlx::Error>
where
    F: Future<Output = Result<u64, sqlx::Error>>,
{
    let mut swept = 0;
    loop {
        let rows = batch().await?;
        swept += rows;
        if rows < u64::from(SWEEP_BATCH) {
            return Ok(swept);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn batches_go_on_until_one_is_not_full() {
        let full = u64::from(SWEEP_BATCH);
        let left = RefCell::new(vec![7, 3, full, full]);
        let next = || {
            let rows = left.borrow_mut().pop().expect("a batch");
            async move { Ok(rows) }
        };
        assert_eq!(in_batches(next).await.unwrap(), 2 * full + 3);
        assert_eq!(left.into_inner(), [7]);
    }
}
