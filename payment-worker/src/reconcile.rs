//! Reconciler: compares payments and refunds with Stripe, so that lost webhooks do no harm.
//! Unsettled ones are compared every round, one by one while they are few and by Stripe's lists
//! when they are many; all that Stripe has of the last days is compared now and then, settled and
//! unknown objects included. What has one right answer is repaired, the rest is a finding for
//! staff.
//!
//! An object that can't be compared stops no other. What one worker does for all is claimed as a
//! [chore](crate::store::chores).

mod window;

use std::ops::{Add, AddAssign};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, stream};
use platform::pg::run_tx;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::operations::CLOCK_DIFFERENCE;
use crate::payments::rules::Source;
use crate::payments::{self, Followed, Report};
use crate::refunds;
use crate::state::AppState;
use crate::store::findings::{self, Finding, Kind};
use crate::store::{self, breaker, chores, payments as table};
use crate::stripe::Failure;
use crate::sweep;

/// Most payments, and most refunds, that a round compares one by one: its calls must leave room for
/// those that buyers wait for. More payments are compared by Stripe's lists, a hundred per call.
const PER_ROUND: i64 = 100;
/// Objects compared at once.
const CONCURRENCY: usize = 4;
/// Outages in a row that end a round.
const MAX_OUTAGES: usize = 5;

/// Intervals of the reconciler.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    /// Time between two rounds.
    pub interval: Duration,
    /// Age from which an unsettled payment is compared.
    pub after: Duration,
    /// Time between two comparisons of the window.
    pub window_interval: Duration,
    /// Lookback of the window.
    pub window: TimeDelta,
}

/// Runs until `stop`.
///
/// # Errors
/// None at present: whatever fails is tried again.
pub(crate) async fn run(
    state: Arc<AppState>,
    schedule: Schedule,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    while stop
        .run_until_cancelled(tokio::time::sleep(schedule.interval))
        .await
        .is_some()
    {
        if stop
            .run_until_cancelled(Box::pin(round(&state, &schedule)))
            .await
            .is_none()
        {
            break;
        }
    }
    Ok(())
}

/// Runs one round. A part that fails does not stop the next.
async fn round(state: &AppState, schedule: &Schedule) {
    log("comparing payments", compare(state, schedule.after).await);
    log(
        "sweeping lost messages",
        sweep_if_due(state, schedule).await,
    );
    log("comparing the window", window_if_due(state, schedule).await);
    log("pruning", prune_if_due(state).await);
}

fn log<T>(what: &'static str, outcome: Result<T, RoundError>) {
    if let Err(error) = outcome {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(
            error,
            what,
            "a part of the round failed; retrying in the next"
        );
    }
}

async fn sweep_if_due(state: &AppState, schedule: &Schedule) -> Result<(), RoundError> {
    let now = state.now();
    if chores::claim(&state.db, "sweep", schedule.interval, now).await? {
        sweep::sweep(state, now - sweep::RECENT).await?;
    }
    Ok(())
}

async fn window_if_due(state: &AppState, schedule: &Schedule) -> Result<(), RoundError> {
    let now = state.now();
    if !chores::claim(&state.db, "window", schedule.window_interval, now).await? {
        return Ok(());
    }
    let since = now - schedule.window;
    sweep::sweep(state, since).await?;
    window::compare(state, since).await.map(|_| ())
}

async fn prune_if_due(state: &AppState) -> Result<(), RoundError> {
    let every = sweep::PRUNE_INTERVAL;
    if chores::claim(&state.db, "prune", every, state.now()).await? {
        sweep::prune(state).await?;
    }
    Ok(())
}

/// Result of a reconciliation.
#[derive(Debug, Clone, Serialize)]
pub struct Reconciled {
    /// PaymentIntents at Stripe that were compared.
    pub compared: usize,
    /// Payments and refunds that were moved to Stripe's state.
    pub repaired: usize,
    /// Objects that could not be compared; run it again.
    pub failed: usize,
    /// Open findings, oldest first.
    pub findings: Vec<Finding>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    /// PaymentIntents that were listed.
    compared: usize,
    repaired: usize,
    failed: usize,
}

impl Tally {
    /// One object that could not be compared.
    const FAILED: Self = Self {
        compared: 0,
        repaired: 0,
        failed: 1,
    };
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            compared: self.compared + other.compared,
            repaired: self.repaired + other.repaired,
            failed: self.failed + other.failed,
        }
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

/// Compares every unsettled payment and refund, and all that Stripe has since `since`.
pub(crate) async fn everything(
    state: &AppState,
    since: DateTime<Utc>,
) -> Result<Reconciled, RoundError> {
    sweep::sweep(state, since).await?;
    let mut tally = Tally::default();
    let begun = state.now();
    loop {
        let (round, has_more) = compare_before(state, begun).await?;
        tally += round;
        if !has_more {
            break;
        }
    }
    tally += window::compare(state, since).await?;
    Ok(Reconciled {
        compared: tally.compared,
        repaired: tally.repaired,
        failed: tally.failed,
        findings: store::findings::open(&state.db).await?,
    })
}

/// Why a part of a round ended early. A later round compares the rest.
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
            Self::Database(error) => platform::pg::is_busy(error),
            Self::Stripe(failure) => failure.is_outage(),
        }
    }
}

async fn compare(state: &AppState, after: Duration) -> Result<(), RoundError> {
    if breaker::is_open(&state.db).await? {
        return Ok(());
    }
    let pending = store::operations::count_pending(&state.db).await?;
    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
    metrics::gauge!("payment_worker_operations_pending").set(pending as f64);
    compare_before(state, state.now() - after).await?;
    Ok(())
}

/// Compares what was not compared since `before`: PaymentIntents one by one, or all by Stripe's
/// list when they are many; refunds one by one. Returns whether more refunds may be left.
async fn compare_before(
    state: &AppState,
    before: DateTime<Utc>,
) -> Result<(Tally, bool), RoundError> {
    let now = state.now();
    let full = usize::try_from(PER_ROUND).expect("a round is small");
    let intents = table::claim_unsettled(&state.db, before, PER_ROUND, now).await?;
    let mut tally = if intents.len() < full {
        each(intents, String::as_str, |id| compare_intent(state, id)).await
    } else {
        let oldest = table::oldest_unsettled(&state.db).await?;
        let since = oldest.unwrap_or(now) - CLOCK_DIFFERENCE;
        window::compare_intents(state, since).await?
    };
    let sent = store::refunds::claim_unsettled(&state.db, before, PER_ROUND, now).await?;
    let has_more = sent.len() == full;
    tally += each(sent, String::as_str, |id| compare_refund(state, id)).await;
    Ok((tally, has_more))
}

/// Compares objects one by one, a few at a time. One that fails stops no other, until
/// [`MAX_OUTAGES`] in a row were outages: the rest counts as failed, and is compared again later.
async fn each<T, Fut>(objects: Vec<T>, id: fn(&T) -> &str, compare: impl Fn(T) -> Fut) -> Tally
where
    Fut: Future<Output = Result<bool, RoundError>>,
{
    let outages = AtomicUsize::new(0);
    let comparing = objects.into_iter().map(|object| {
        let (compare, outages, id) = (&compare, &outages, id(&object).to_owned());
        async move {
            if outages.load(Ordering::Relaxed) >= MAX_OUTAGES {
                return Tally::FAILED;
            }
            match compare(object).await {
                Ok(is_repaired) => {
                    outages.store(0, Ordering::Relaxed);
                    Tally {
                        repaired: usize::from(is_repaired),
                        ..Tally::default()
                    }
                }
                Err(error) => {
                    if error.is_outage() {
                        outages.fetch_add(1, Ordering::Relaxed);
                    }
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(id, error, "comparing with Stripe failed; retrying later");
                    Tally::FAILED
                }
            }
        }
    });
    stream::iter(comparing)
        .buffer_unordered(CONCURRENCY)
        .fold(Tally::default(), async |tally, one| tally + one)
        .await
}

async fn compare_intent(state: &AppState, intent_id: String) -> Result<bool, RoundError> {
    let answer = state.stripe.retrieve(&intent_id).await;
    let Some(intent) = readable(state, answer, &intent_id).await? else {
        return Ok(false);
    };
    let now = state.now();
    let following = run_tx(&state.db, "payment reconcile", |tx| {
        let (intent, source) = (&intent, Source::Read);
        Box::pin(payments::follow_one(tx, Report { intent, source }, now))
    });
    let followed = following.await?;
    state.wake_after_commit();
    Ok(followed == Followed::Moved)
}

async fn compare_refund(state: &AppState, refund_id: String) -> Result<bool, RoundError> {
    let answer = state.stripe.retrieve_refund(&refund_id).await;
    let Some(refund) = readable(state, answer, &refund_id).await? else {
        return Ok(false);
    };
    let now = state.now();
    let following = run_tx(&state.db, "payment reconcile", |tx| {
        Box::pin(refunds::follow(tx, &refund, now))
    });
    let is_moved = following.await?;
    state.wake_after_commit();
    Ok(is_moved.unwrap_or(false))
}

/// The object as Stripe has it; `None` when Stripe does not know it, which becomes a finding. Any
/// other refusal is an error: the key or the request is at fault, not the object.
async fn readable<T>(
    state: &AppState,
    answer: Result<T, Failure>,
    id: &str,
) -> Result<Option<T>, RoundError> {
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(missing) if missing.is_missing() => {
            let mut conn = state.db.acquire().await?;
            let detail = format!("Stripe does not know what we have from it: {missing}");
            findings::note(&mut conn, Kind::Missing, id, None, &detail, state.now()).await?;
            Ok(None)
        }
        Err(failure) => Err(failure.into()),
    }
}
