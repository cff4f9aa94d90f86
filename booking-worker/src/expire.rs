//! Holds that run out. Their seats stay held until the payment worker says that no payment can
//! come; it is asked again when it does not answer.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::message::VoidPayment;
use domain::payment::VoidReason;
use platform::outbox::{self, Entry};
use platform::pg::run_tx;
use platform::service::Context;
use sqlx::{PgConnection, PgPool};

use crate::OWNER;
use crate::metrics;
use crate::store::bookings;

/// How many holds one transaction takes.
const BATCH: i64 = 500;
const INTERVAL: Duration = Duration::from_secs(1);
/// How much longer a hold lasts whose buyer is at the bank's page when it runs out: long enough for
/// a code from the phone, short enough for those who wait for the seats.
const EXTENSION: TimeDelta = TimeDelta::seconds(120);
/// How long an answer is waited for before it is asked again.
const ANSWER_WITHIN: TimeDelta = TimeDelta::seconds(60);

/// Ends holds on time until shutdown.
pub(crate) async fn expire_holds(ctx: Context) -> anyhow::Result<()> {
    let stop = ctx.shutdown.soft().clone();
    while !stop.is_cancelled() {
        match sweep(&ctx.db, ctx.clock.now()).await {
            Ok(swept) if swept == full_batch() => continue,
            Ok(_) => {}
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "holds could not be ended; trying again");
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await;
    }
    Ok(())
}

fn full_batch() -> usize {
    usize::try_from(BATCH).expect("a batch is small")
}

/// Asks for the end of one batch of holds. Gives how many, of the larger kind.
pub(crate) async fn sweep(pool: &PgPool, now: DateTime<Utc>) -> Result<usize, sqlx::Error> {
    let begun = run_tx(pool, "begin_expiry", |tx| Box::pin(begin(tx, now))).await?;
    let repeated = run_tx(pool, "ask_again", |tx| Box::pin(ask_again(tx, now))).await?;
    if begun + repeated > 0 {
        outbox::wake(OWNER);
    }
    Ok(begun.max(repeated))
}

async fn begin(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<usize, sqlx::Error> {
    bookings::extend_while_paying(conn, now, now + EXTENSION, BATCH).await?;
    let due = bookings::begin_expiry(conn, now, BATCH).await?;
    metrics::expiry_lag(due.iter().map(|(_, hold_until)| now - *hold_until).max());
    let entries = due
        .iter()
        .map(|(id, _)| {
            Entry::new(&VoidPayment {
                booking_id: *id,
                reason: VoidReason::HoldExpired,
            })
        })
        .collect::<Result<_, _>>()?;
    outbox::put_all(conn, OWNER, entries).await?;
    Ok(due.len())
}

async fn ask_again(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<usize, sqlx::Error> {
    let due = bookings::ask_again(conn, now, now - ANSWER_WITHIN, BATCH).await?;
    let entries = due
        .iter()
        .map(|(id, reason)| {
            Entry::new(&VoidPayment {
                booking_id: *id,
                reason: *reason,
            })
        })
        .collect::<Result<_, _>>()?;
    outbox::put_all(conn, OWNER, entries).await?;
    Ok(due.len())
}
