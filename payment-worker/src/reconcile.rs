//! Compares payments and refunds with Stripe, so that a webhook that never comes does no harm:
//! unsettled ones often, each by itself while they are few and by Stripe's lists when they are
//! many; and now and then all that Stripe has of the last days, also what we settled, and what we
//! never heard of. What has one right answer is repaired, the rest is noted as a finding for staff.
//!
//! One object that can't be compared holds up no other. What one worker does for all is claimed as
//! a [chore](crate::store::chores).

mod window;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use platform::pg::run_tx;
use serde::Serialize;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::store::findings::{self, Finding, Kind};
use crate::store::{self, breaker, chores, payments, refunds};
use crate::stripe::{Failure, Intent, Refund};
use crate::sweep;
use crate::transitions;
use crate::worker::Worker;

/// How many payments, and how many refunds, a round compares one by one at most: the calls of a
/// round must leave room for those that buyers wait for. More payments are compared by Stripe's
/// lists, a hundred a call.
const PER_ROUND: i64 = 100;
/// How many are compared at once.
const CONCURRENCY: usize = 4;
/// So many in a row without a certain answer end a round: Stripe seems to be down.
const MOST_OUTAGES: usize = 5;

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
    while stop
        .run_until_cancelled(tokio::time::sleep(schedule.interval))
        .await
        .is_some()
    {
        if stop
            .run_until_cancelled(Box::pin(round(&worker, &schedule)))
            .await
            .is_none()
        {
            break;
        }
    }
    Ok(())
}

/// One round. Each part is done whatever became of the one before.
async fn round(worker: &Worker, schedule: &Schedule) {
    log(
        "payments not compared",
        compare(worker, schedule.after).await,
    );
    log(
        "lost messages not swept",
        sweep_if_due(worker, schedule).await,
    );
    log("window not compared", window_if_due(worker, schedule).await);
    log("old rows not deleted", prune_if_due(worker).await);
}

fn log<T>(what: &'static str, outcome: Result<T, RoundError>) {
    if let Err(error) = outcome {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, what, "trying again in the next round");
    }
}

async fn sweep_if_due(worker: &Worker, schedule: &Schedule) -> Result<(), RoundError> {
    let now = worker.now();
    if chores::claim(&worker.db, "sweep", schedule.interval, now).await? {
        sweep::sweep(worker, now - sweep::RECENT).await?;
    }
    Ok(())
}

async fn window_if_due(worker: &Worker, schedule: &Schedule) -> Result<(), RoundError> {
    let now = worker.now();
    if !chores::claim(&worker.db, "window", schedule.window_interval, now).await? {
        return Ok(());
    }
    let since = now - schedule.window;
    sweep::sweep(worker, since).await?;
    window::compare(worker, since).await.map(|_| ())
}

async fn prune_if_due(worker: &Worker) -> Result<(), RoundError> {
    let every = sweep::PRUNE_INTERVAL;
    if chores::claim(&worker.db, "prune", every, worker.now()).await? {
        sweep::prune(worker).await?;
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
    /// Objects that could not be compared; run it again.
    pub failed: usize,
    /// What staff must look at, oldest first.
    pub findings: Vec<Finding>,
}

/// Counts of a comparison.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    compared: usize,
    repaired: usize,
    failed: usize,
}

/// Compares everything that is unsettled, and all that Stripe has since `since`.
pub(crate) async fn everything(
    worker: &Worker,
    since: DateTime<Utc>,
) -> Result<Reconciled, RoundError> {
    sweep::sweep(worker, since).await?;
    let mut failed = 0;
    let begun = worker.now();
    loop {
        let round = compare_before(worker, begun).await?;
        failed += round.failed;
        if !round.has_more {
            break;
        }
    }
    let tally = window::compare(worker, since).await?;
    Ok(Reconciled {
        compared: tally.compared,
        repaired: tally.repaired,
        failed: failed + tally.failed,
        findings: store::findings::open(&worker.db).await?,
    })
}

/// Why a part of a round ended early. What it did not come to is looked at in later ones.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoundError {
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("Stripe did not answer")]
    Stripe(#[from] Failure),
}

impl RoundError {
    fn is_outage(&self) -> bool {
        match self {
            Self::Database(_) => true,
            Self::Stripe(failure) => failure.is_outage(),
        }
    }
}

async fn compare(worker: &Worker, after: Duration) -> Result<(), RoundError> {
    if breaker::is_open(&worker.db).await? {
        return Ok(());
    }
    let pending = store::operations::count_pending(&worker.db).await?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    metrics::gauge!("payment_worker_operations_pending").set(pending as f64);
    compare_before(worker, worker.now() - after).await?;
    Ok(())
}

/// What became of one turn of [`compare_before`].
struct Round {
    /// Whether there may be more refunds.
    has_more: bool,
    /// Objects that could not be compared.
    failed: usize,
}

/// Compares what was not compared since `before`: PaymentIntents each by itself, or all by Stripe's
/// list when they are many; refunds each by itself, a number a turn.
async fn compare_before(worker: &Worker, before: DateTime<Utc>) -> Result<Round, RoundError> {
    let now = worker.now();
    let full = usize::try_from(PER_ROUND).expect("a round is small");
    let intents = payments::claim_unsettled(&worker.db, before, PER_ROUND, now).await?;
    let failed = if intents.len() < full {
        each(intents, |id| compare_intent(worker, id)).await
    } else {
        let oldest = payments::oldest_unsettled(&worker.db).await?;
        let since = oldest.unwrap_or(now) - window::OVERLAP;
        window::compare_intents(worker, since).await?.failed
    };
    let sent = refunds::claim_unsettled(&worker.db, before, PER_ROUND, now).await?;
    let has_more = sent.len() == full;
    let failed = failed + each(sent, |id| compare_refund(worker, id)).await;
    Ok(Round { has_more, failed })
}

/// Compares each by itself, and returns how many failed. Those left out because Stripe seems to be
/// down are due again later.
async fn each<Fut>(ids: Vec<String>, compare: impl Fn(String) -> Fut) -> usize
where
    Fut: Future<Output = Result<(), RoundError>>,
{
    let (failed, outages) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let comparing = ids.into_iter().map(|id| {
        let (compare, failed, outages) = (&compare, &failed, &outages);
        async move {
            if outages.load(Ordering::Relaxed) >= MOST_OUTAGES {
                failed.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let Err(error) = compare(id.clone()).await else {
                outages.store(0, Ordering::Relaxed);
                return;
            };
            failed.fetch_add(1, Ordering::Relaxed);
            if error.is_outage() {
                outages.fetch_add(1, Ordering::Relaxed);
            }
            let error = &error as &dyn std::error::Error;
            tracing::warn!(id, error, "not compared with Stripe; trying again later");
        }
    });
    stream::iter(comparing)
        .for_each_concurrent(CONCURRENCY, |comparing| comparing)
        .await;
    failed.into_inner()
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

/// The object as Stripe has it; `None` when Stripe does not know it, which is noted for staff. Any
/// other refusal is an error: the key or the request is at fault, not the object.
async fn readable<T>(
    worker: &Worker,
    answer: Result<T, Failure>,
    id: &str,
) -> Result<Option<T>, RoundError> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(missing) if missing.is_missing() => {
            let mut conn = worker.db.acquire().await?;
            let detail = format!("Stripe does not know what we have from it: {missing}");
            findings::note(&mut conn, Kind::Missing, id, None, &detail, worker.now()).await?;
            Ok(None)
        }
        Err(failure) => Err(failure.into()),
    }
}

/// Moves a refund of ours, or one that was made in Stripe's dashboard; `false` when it belongs to
/// no payment here.
async fn follow_refund(
    conn: &mut PgConnection,
    refund: &Refund,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    if let Some(id) = refund.refund_id
        && transitions::follow_refund(conn, id, refund, now).await?
    {
        return Ok(true);
    }
    transitions::follow_foreign_refund(conn, refund, now).await
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
