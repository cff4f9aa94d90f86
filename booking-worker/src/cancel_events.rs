//! Sweep that cancels the bookings of cancelled events, those made during the cancellation
//! included. Each booking is a transaction of its own, so the sweep resumes where it stopped.

use std::collections::HashSet;
use std::time::Duration;

use domain::BookingId;
use platform::outbox::Staged;
use platform::pg::run_tx;
use platform::service::Context;

use crate::OWNER;
use crate::cancel::{Cancellation, cancel};
use crate::store::bookings;

/// Bookings read at once.
const BATCH: i64 = 100;
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs the sweep until shutdown.
pub(crate) async fn cancel_bookings(ctx: Context) -> anyhow::Result<()> {
    let stop = ctx.shutdown.soft().clone();
    let mut passed_over = HashSet::new();
    while !stop.is_cancelled() {
        match sweep(&ctx, &mut passed_over).await {
            Ok(0) => {}
            Ok(_) => continue,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(
                    error,
                    "reading bookings of cancelled events failed; retrying"
                );
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await;
    }
    Ok(())
}

/// Cancels one batch; returns how many were cancelled. A booking that can't be cancelled is logged
/// and skipped until the others are done.
async fn sweep(ctx: &Context, passed_over: &mut HashSet<BookingId>) -> Result<usize, sqlx::Error> {
    let skip: Vec<_> = passed_over.iter().map(|id| id.0).collect();
    let due = bookings::of_cancelled_events(&ctx.db, &skip, BATCH).await?;
    if due.is_empty() {
        passed_over.clear();
    }
    let mut cancelled = 0;
    for id in due {
        match cancel_one(ctx, id).await {
            Ok(Cancellation::Done) => cancelled += 1,
            Ok(_) => {
                passed_over.insert(id);
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, booking_id = %id, "cancelling for a cancelled event failed");
                passed_over.insert(id);
            }
        }
    }
    Ok(cancelled)
}

async fn cancel_one(ctx: &Context, id: BookingId) -> Result<Cancellation, sqlx::Error> {
    let now = ctx.clock.now();
    let cancelling = run_tx(&ctx.db, "cancel_booking_of_event", |tx| {
        Box::pin(async move {
            let mut staged = Staged::of(OWNER);
            let outcome = cancel(tx, id, None, now, &mut staged).await?;
            Ok::<_, sqlx::Error>((outcome, staged))
        })
    });
    let (outcome, staged) = cancelling.await?;
    ctx.send_soon(staged);
    Ok(outcome)
}
