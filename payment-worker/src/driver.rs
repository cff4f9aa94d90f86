//! Carries the operations out: leases due ones, calls Stripe with no transaction and no connection
//! held (I13), and has what became of them [recorded](crate::recorder).
//!
//! Each kind has a driver of its own, as it has a limit of its own at Stripe: captures don't wait
//! behind a thousand creations. While Stripe seems to be down ([`breaker`]) one operation at a
//! time is tried.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::backoff::backoff;
use crate::operations::{self, Kind, Operation};
use crate::recorder::{RecordError, Recorder};
use crate::store::{breaker, operations as table};
use crate::stripe::Failure;
use crate::worker::Worker;

/// How long an idle driver waits when nobody wakes it.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The shortest time from one look for due operations to the next, so that a busy driver takes
/// several at once.
const PACE: Duration = Duration::from_millis(30);
/// The pause after the database failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// Calls one operation makes at most: the write, and one read to settle it. Lists come on top, so
/// there is room in the lease.
const CALLS: u32 = 4;
/// The longest pause after Stripe was busy.
const LONGEST_BUSY: Duration = Duration::from_secs(5);
/// What a lease has beyond the calls, for pacing and the database.
const LEASE_MARGIN: Duration = Duration::from_secs(10);

/// Runs until `stop`, then finishes what it has begun.
///
/// # Errors
/// None at present: whatever fails is tried again.
pub(crate) async fn run(
    worker: Arc<Worker>,
    recorder: Arc<Recorder>,
    kind: Kind,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let permits = Arc::new(Semaphore::new(worker.concurrency));
    let tracker = TaskTracker::new();
    while !stop.is_cancelled() {
        let next = Instant::now() + PACE;
        // Registered before looking, so that a wake in between is not missed.
        let woken = worker.operations_due[kind as usize].notified();
        let pause = match begin_due(&worker, &recorder, kind, &permits, &tracker).await {
            Ok(true) => continue,
            Ok(false) => POLL_INTERVAL,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "operations can't be read; trying again");
                FAILURE_PAUSE
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
            () = woken => {}
        }
        tokio::time::sleep_until(next).await;
    }
    tracker.close();
    tracker.wait().await;
    Ok(())
}

/// Begins as many due operations as there are free places; `true` when there may be more.
async fn begin_due(
    worker: &Arc<Worker>,
    recorder: &Arc<Recorder>,
    kind: Kind,
    permits: &Arc<Semaphore>,
    tracker: &TaskTracker,
) -> Result<bool, sqlx::Error> {
    // Waits for one place, then takes what else is free, so that nothing is leased to wait.
    let mut places = vec![place(permits).await];
    while let Ok(more) = Arc::clone(permits).try_acquire_owned() {
        places.push(more);
    }
    let limit = i64::try_from(places.len()).expect("the places fit into memory");
    let due = claim_due(worker, kind, limit).await?;
    let is_full = due.len() == places.len();
    for (operation, place) in due.into_iter().zip(places) {
        let (worker, recorder) = (Arc::clone(worker), Arc::clone(recorder));
        let span = tracing::info_span!(
            "stripe operation",
            booking_id = %operation.booking_id,
            operation = operation.request.kind().as_str(),
            tries = operation.tries,
        );
        let carrying_out = async move {
            carry_out(&worker, &recorder, operation).await;
            drop(place);
        };
        tracker.spawn(carrying_out.instrument(span));
    }
    Ok(is_full)
}

/// Leases up to `limit` due operations; one, now and then, while the breaker is open.
async fn claim_due(worker: &Worker, kind: Kind, limit: i64) -> Result<Vec<Operation>, sqlx::Error> {
    let (lease, now) = (lease(worker), worker.now());
    let due = table::claim_due(&worker.db, kind, limit, lease, now).await?;
    if !due.is_empty() {
        return Ok(due);
    }
    if breaker::may_probe(&worker.db, worker.stripe_timeout, now).await? {
        return table::claim_probe(&worker.db, lease, now).await;
    }
    Ok(due)
}

/// How long whoever carries an operation out has for it.
pub(crate) fn lease(worker: &Worker) -> Duration {
    worker.stripe_timeout * CALLS + LEASE_MARGIN
}

async fn place(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(permits)
        .acquire_owned()
        .await
        .expect("the semaphore is never closed")
}

/// Does one operation and records the result. If this process dies in between, or the recording
/// fails, the lease runs out and the operation is repeated with the same key.
pub(crate) async fn carry_out(worker: &Worker, recorder: &Recorder, operation: Operation) {
    let outcome = operations::perform(&worker.stripe, &operation, worker.now()).await;
    let recorded = match outcome {
        Ok(outcome) => recorder.record(operation, outcome).await,
        Err(failure) => put_off(worker, &operation, &failure).await,
    };
    if let Err(error) = recorded {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(
            error,
            "no result recorded; the operation is repeated after its lease"
        );
    }
}

fn log(failure: &Failure) {
    let error = failure as &dyn std::error::Error;
    if failure.is_forbidden() {
        let advice = "the key may not do this call; give it the permission at Stripe";
        tracing::error!(error, advice, "Stripe forbade a call");
    } else {
        tracing::warn!(error, "Stripe gave no certain answer");
    }
}

async fn put_off(
    worker: &Worker,
    operation: &Operation,
    failure: &Failure,
) -> Result<(), RecordError> {
    log(failure);
    let now = worker.now();
    // What waits for others, and not for Stripe to recover, is tried again soon.
    let longest = if failure.is_outage() || failure.is_forbidden() {
        Duration::MAX
    } else {
        LONGEST_BUSY
    };
    let due = now + backoff(operation.id, operation.tries).min(longest);
    let mut conn = worker.db.acquire().await?;
    let error = failure.to_string();
    breaker::record(&mut conn, Some(failure), now).await?;
    if table::put_off(&mut conn, operation, due, Some(&error), now).await? {
        Ok(())
    } else {
        Err(RecordError::LeaseLost)
    }
}
