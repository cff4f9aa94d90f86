//! Compares unsettled payments and refunds with Stripe, so that a webhook that never comes does no
//! harm.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::{TryStreamExt, stream};
use platform::pg::run_tx;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::store::{self, breaker, payments, refunds};
use crate::stripe::{Failure, Intent};
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
    while stop
        .run_until_cancelled(tokio::time::sleep(schedule.interval))
        .await
        .is_some()
    {
        let round = stop
            .run_until_cancelled(compare(&worker, schedule.after))
            .await;
        if let Some(Err(error)) = round {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(
                error,
                "payments were not compared with Stripe; trying again"
            );
        }
    }
    Ok(())
}

/// Why a round ended early. What it did not come to is looked at in later ones.
#[derive(Debug, thiserror::Error)]
enum RoundError {
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
    let Some(intent) = readable(worker.stripe.retrieve(&intent_id).await, &intent_id)? else {
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
    let found = readable(worker.stripe.retrieve_refund(&refund_id).await, &refund_id)?;
    let Some((refund, ours)) = found.and_then(|refund| refund.refund_id.map(|id| (refund, id)))
    else {
        return Ok(());
    };
    let now = worker.now();
    let following = run_tx(&worker.db, "payment reconcile", |tx| {
        Box::pin(transitions::follow_refund(tx, ours, &refund, now))
    });
    following.await?;
    worker.wake_after_commit();
    Ok(())
}

/// What Stripe knows of an object; `None` when it refuses to say, which a repeat won't change.
fn readable<T>(answer: Result<T, Failure>, id: &str) -> Result<Option<T>, RoundError> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(refused @ Failure::Refused { .. }) => {
            let error = &refused as &dyn std::error::Error;
            tracing::error!(id, error, "Stripe does not know what we have from it");
            Ok(None)
        }
        Err(failure) => Err(failure.into()),
    }
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
