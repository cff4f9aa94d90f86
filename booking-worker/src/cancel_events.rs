//! An event is cancelled: so are its bookings, those too that were made while it was. What was
//! paid goes back. Each booking is a transaction of its own, so this goes on where it stopped.

use std::time::Duration;

use domain::message::Outcome;
use platform::outbox::Kept;
use platform::pg::run_tx;
use platform::service::Context;
use sqlx::PgPool;

use crate::OWNER;
use crate::cancel::cancel;
use crate::store::bookings;

/// How many bookings are looked up at once.
const BATCH: i64 = 100;
const INTERVAL: Duration = Duration::from_secs(1);

/// Cancels the bookings of cancelled events until shutdown.
pub(crate) async fn cancel_bookings(ctx: Context) -> anyhow::Result<()> {
    let stop = ctx.shutdown.soft().clone();
    while !stop.is_cancelled() {
        match sweep(&ctx).await {
            Ok(0) => {}
            Ok(_) => continue,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "bookings of a cancelled event stay; trying again");
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await;
    }
    Ok(())
}

/// Cancels some; gives how many of them are.
async fn sweep(ctx: &Context) -> Result<usize, sqlx::Error> {
    let (pool, now): (&PgPool, _) = (&ctx.db, ctx.clock.now());
    let due = bookings::of_cancelled_events(pool, BATCH).await?;
    let mut cancelled = 0;
    for id in &due {
        let cancelling = run_tx(pool, "cancel_booking_of_event", |tx| {
            Box::pin(async move {
                let mut kept = Kept::of(OWNER);
                let outcome = cancel(tx, *id, None, now, &mut kept).await?;
                Ok::<_, sqlx::Error>((outcome, kept))
            })
        });
        let (outcome, kept) = cancelling.await?;
        kept.send_soon(ctx);
        cancelled += usize::from(outcome == Outcome::Cancelled);
    }
    Ok(cancelled)
}
