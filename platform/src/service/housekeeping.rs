//! Background tasks of every process.

use std::time::Duration;

use super::Context;
use super::checks::{Checks, declare_queues};
use crate::amqp::dead_letters;
use crate::{idempotency, pg, telemetry, topology};

/// Interval of the sweep of expired idempotency keys.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);
/// Interval of counting dead letters.
const DEAD_LETTERS_INTERVAL: Duration = Duration::from_secs(60);
const SWEEP_LIMIT: Duration = Duration::from_secs(20);

pub(super) fn spawn(ctx: &Context, checks: Checks) {
    let task = ctx.clone();
    ctx.spawn("housekeeping", async move {
        let work = async {
            tokio::join!(
                task.limits.sweep(),
                task.lines.refresh(&task.health),
                telemetry::run_upkeep(),
                sweep_keys(&task),
                declare_queues(&task),
                watch_dead_letters(&task),
                checks.run(),
            )
        };
        let work = Box::pin(work);
        task.shutdown.soft().run_until_cancelled(work).await;
        Ok(())
    });
}

async fn watch_dead_letters(ctx: &Context) {
    loop {
        tokio::time::sleep(DEAD_LETTERS_INTERVAL).await;
        count_dead_letters(ctx).await;
    }
}

/// Measures how many dead letters each queue has, in RabbitMQ and stored. A queue that can't be
/// counted keeps its last value until the next round.
async fn count_dead_letters(ctx: &Context) {
    let counting = dead_letters::count_stored(&ctx.db);
    let Ok(stored) = pg::within(SWEEP_LIMIT, counting).await else {
        return;
    };
    for queue in topology::all() {
        let Ok(waiting) = dead_letters::count(&ctx.broker, &queue.name).await else {
            continue;
        };
        let stored = stored.get(&queue.name).copied().unwrap_or_default();
        let stored = u32::try_from(stored).unwrap_or(u32::MAX);
        let waiting = u32::try_from(waiting).unwrap_or(u32::MAX);
        let gauge = metrics::gauge!("amqp_dead_letters", "queue" => queue.name);
        gauge.set(f64::from(stored) + f64::from(waiting));
    }
}

async fn sweep_keys(ctx: &Context) {
    loop {
        tokio::time::sleep(SWEEP_INTERVAL).await;
        // A failure is left to the next round: expired keys do no harm.
        let sweeping = idempotency::sweep(&ctx.db, ctx.clock.now());
        if let Err(error) = pg::within(SWEEP_LIMIT, sweeping).await {
            tracing::warn!(%error, "expired idempotency keys were not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestApp;

    #[tokio::test]
    async fn a_queue_that_cannot_be_counted_does_not_hide_those_after_it() {
        let app = TestApp::start().await;
        let last = topology::all().pop().expect("there are queues");
        app.ctx.broker.declare(&last).await.unwrap();
        count_dead_letters(&app.ctx).await;
        let line = format!("amqp_dead_letters{{queue=\"{}\"}} 0", last.name);
        let measured = telemetry::render();
        assert!(measured.contains(&line), "{measured}");
        app.finish().await;
    }
}
