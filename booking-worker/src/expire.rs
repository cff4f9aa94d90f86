//! Expiry of holds. The seats stay held until the payment worker says that no payment can come;
//! without an answer it is asked again, with exponential backoff.

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

/// Most holds per transaction.
const BATCH: i64 = 500;
const INTERVAL: Duration = Duration::from_secs(1);
/// Extension of a hold whose buyer is authenticating at the bank when it expires: long enough for a
/// code sent to the phone, short enough for those who wait for the seats.
const EXTENSION: TimeDelta = TimeDelta::seconds(120);

/// Expires holds until shutdown.
pub(crate) async fn expire_holds(ctx: Context) -> anyhow::Result<()> {
    let stop = ctx.shutdown.soft().clone();
    while !stop.is_cancelled() {
        match sweep(&ctx.db, ctx.clock.now()).await {
            Ok(swept) if swept == full_batch() => continue,
            Ok(_) => {}
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "expiring holds failed; retrying");
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(INTERVAL)).await;
    }
    Ok(())
}

fn full_batch() -> usize {
    usize::try_from(BATCH).expect("a batch is small")
}

/// Begins to expire one batch, and repeats unanswered voids; returns the larger of both counts.
pub(crate) async fn sweep(pool: &PgPool, now: DateTime<Utc>) -> Result<usize, sqlx::Error> {
    let begun = run_tx(pool, "begin_expiry", |tx| Box::pin(begin(tx, now))).await?;
    let repeated = run_tx(pool, "ask_again", |tx| Box::pin(repeat_voids(tx, now))).await?;
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

async fn repeat_voids(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<usize, sqlx::Error> {
    let due = bookings::claim_unanswered_voids(conn, now, BATCH).await?;
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

#[cfg(test)]
mod tests {
    use platform::testing::TestApp;

    use super::*;

    #[tokio::test]
    async fn an_ending_that_nobody_answers_is_asked_for_ever_more_rarely() {
        let app = TestApp::start().await;
        let (db, began) = (&app.ctx.db, app.ctx.clock.now());
        sqlx::query(
            "insert into booking.bookings
                 (id, event_id, account_id, tickets, state, hold_until, created_at, updated_at)
             values (gen_random_uuid(), 1, 7, 1, 'held', $1, $1, $1)",
        )
        .bind(began)
        .execute(db)
        .await
        .unwrap();
        let asked = async |at| sweep(db, at).await.unwrap();
        assert_eq!(asked(began).await, 1);
        let mut last = began;
        for wait in [60, 120, 240, 480, 600, 600] {
            let due = last + TimeDelta::seconds(wait);
            assert_eq!(asked(due - TimeDelta::seconds(1)).await, 0, "{wait} s");
            assert_eq!(asked(due).await, 1, "{wait} s");
            last = due;
        }
        app.finish().await;
    }
}
