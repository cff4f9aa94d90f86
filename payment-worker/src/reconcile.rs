//! Compares payments and refunds with Stripe, so that a webhook that never comes does no harm:
//! unsettled ones often, each by itself; and now and then all that Stripe has of the last days,
//! also what we settled, and what we never heard of. What has one right answer is repaired, the
//! rest is noted as a finding for staff.

mod window;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{TryStreamExt, stream};
use platform::pg::run_tx;
use serde::Serialize;
use sqlx::PgConnection;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::findings::{self, Finding, Kind};
use crate::store::{self, breaker, payments, refunds};
use crate::stripe::{Failure, Intent, Refund};
use crate::transitions;
use crate::worker::Worker;

/// How many payments, and how many refunds, a round compares at most: the calls of a round must
/// leave room for those that buyers wait for.
const PER_ROUND: i64 = 300;
/// How many are compared at once.
const CONCURRENCY: usize = 4;

/// How often, and what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// The time between two rounds.
    pub interval: Duration,
    /// How long a payment is left alone.
    pub after: Duration,
    /// The time between two comparisons of the window.
    pub window_interval: Duration,
    /// How far back the window reaches.
    pub window: TimeDelta,
}

/// Runs until `stop`.
///
/// # Errors
/// None at present: whatever fails is tried again.
pub(crate) async fn run(
    worker: Arc<Worker>,
    schedule: Schedule,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut window_due = Instant::now() + schedule.window_interval;
    while stop
        .run_until_cancelled(tokio::time::sleep(schedule.interval))
        .await
        .is_some()
    {
        let round = async {
            compare(&worker, schedule.after).await?;
            if Instant::now() >= window_due {
                window_due = Instant::now() + schedule.window_interval;
                window::compare(&worker, worker.now() - schedule.window).await?;
            }
            Ok::<_, RoundError>(())
        };
        if let Some(Err(error)) = stop.run_until_cancelled(round).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "payments were not compared with Stripe; trying again"
            );
        }
    }
    Ok(())
}

/// What a comparison came to.
#[derive(Debug, Clone, Serialize)]
pub struct Reconciled {
    /// PaymentIntents at Stripe that were looked at.
    pub compared: usize,
    /// Payments and refunds that were moved to where Stripe has them.
    pub repaired: usize,
    /// What staff must look at, oldest first.
    pub findings: Vec<Finding>,
}

/// Compares everything that is unsettled, and all that Stripe has since `since`.
pub(crate) async fn everything(
    worker: &Worker,
    since: DateTime<Utc>,
) -> Result<Reconciled, RoundError> {
    compare(worker, Duration::ZERO).await?;
    let (compared, repaired) = window::compare(worker, since).await?;
    Ok(Reconciled {
        compared,
        repaired,
        findings: store::findings::open(&worker.db).await?,
    })
}

/// Why a round ended early. What it did not come to is looked at in later ones.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoundError {
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("Stripe did not answer")]
    Stripe(#[from] Failure),
}

async fn compare(worker: &Worker, after: Duration) -> Result<(), RoundError> {
    if breaker::is_open(&worker.db).await? {
        return Ok(());
    }
    let pending = store::operations::count_pending(&worker.db).await?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    metrics::gauge!("payment_worker_operations_pending").set(pending as f64);
    let now = worker.now();
    let intents = payments::claim_unsettled(&worker.db, now - after, PER_ROUND, now).await?;
    stream::iter(intents.into_iter().map(Ok))
        .try_for_each_concurrent(CONCURRENCY, |id| compare_intent(worker, id))
        .await?;
    let sent = refunds::claim_unsettled(&worker.db, now - after, PER_ROUND, now).await?;
    stream::iter(sent.into_iter().map(Ok))
        .try_for_each_concurrent(CONCURRENCY, |id| compare_refund(worker, id))
        .await
}

async fn compare_intent(worker: &Worker, intent_id: String) -> Result<(), RoundError> {
    let answer = worker.stripe.retrieve(&intent_id).await;
    let Some(intent) = readable(worker, answer, &intent_id).await? else {
        return Ok(());
    };
    let now = worker.now();
    let following = run_tx(&worker.db, "payment reconcile", |tx| {
        Box::pin(follow_intent(tx, &intent, now))
    });
    following.await?;
    worker.wake_after_commit();
    Ok(())
}

async fn compare_refund(worker: &Worker, refund_id: String) -> Result<(), RoundError> {
    let answer = worker.stripe.retrieve_refund(&refund_id).await;
    let Some(refund) = readable(worker, answer, &refund_id).await? else {
        return Ok(());
    };
    let now = worker.now();
    let following = run_tx(&worker.db, "payment reconcile", |tx| {
        Box::pin(follow_refund(tx, &refund, now))
    });
    following.await?;
    worker.wake_after_commit();
    Ok(())
}

/// What Stripe knows of an object; `None` when it refuses to say, which a repeat won't change.
async fn readable<T>(
    worker: &Worker,
    answer: Result<T, Failure>,
    id: &str,
) -> Result<Option<T>, RoundError> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(refused @ Failure::Refused { .. }) => {
            let mut conn = worker.db.acquire().await?;
            let detail = format!("Stripe does not know what we have from it: {refused}");
            findings::note(&mut conn, Kind::Missing, id, None, &detail, worker.now()).await?;
            Ok(None)
        }
        Err(failure) => Err(failure.into()),
    }
}

/// Moves a refund of ours, or one that was made in Stripe's dashboard.
async fn follow_refund(
    conn: &mut PgConnection,
    refund: &Refund,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    if let Some(id) = refund.refund_id
        && transitions::follow_refund(conn, id, refund, now).await?
    {
        return Ok(());
    }
    transitions::follow_foreign_refund(conn, refund, now)
        .await
        .map(|_| ())
}

async fn follow_intent(
    conn: &mut PgConnection,
    intent: &Intent,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let Some(booking_id) = payments::booking_of(conn, &intent.id).await? else {
        return Ok(());
    };
    let Some(payment) = payments::lock(conn, booking_id).await? else {
        return Ok(());
    };
    transitions::follow_intent(conn, &payment, intent, true, now).await
}
