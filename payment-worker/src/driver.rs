//! Leased work: claims due operations, calls Stripe with no transaction and no connection held
//! (I13), and has the outcomes [recorded](crate::recorder).
//!
//! Each kind has its own driver, since Stripe limits each endpoint by itself: captures don't queue
//! behind a thousand creations (no head-of-line blocking). While the [circuit breaker](breaker) is
//! open, one operation at a time probes Stripe.

use std::sync::Arc;
use std::time::Duration;

use platform::leased::{self, Capacity, Claimed, Permit, Timing};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::operation::{Kind, Operation, backoff};
use crate::operations;
use crate::recorder::{RecordError, Recorder};
use crate::state::AppState;
use crate::store::{breaker, operations as table};
use crate::stripe::Failure;

const TIMING: Timing = Timing {
    pace: Duration::from_millis(30),
    idle: Duration::from_millis(500),
};
/// Calls that the lease of an operation has room for: the write, a read that settles it, and pages
/// of a list.
const CALLS: u32 = 4;
/// Longest backoff after an answer that only asks to wait.
const MAX_BUSY: Duration = Duration::from_secs(5);
/// Time in a lease beyond the calls, for pacing and the database.
const LEASE_MARGIN: Duration = Duration::from_secs(10);

/// Runs until `stop`, then drains what is in flight.
///
/// # Errors
/// None at present: whatever fails is tried again.
pub(crate) async fn run(
    state: Arc<AppState>,
    recorder: Arc<Recorder>,
    kind: Kind,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let capacity = Capacity::new(state.concurrency);
    let driver = Driver {
        state,
        recorder,
        kind,
        capacity,
    };
    leased::run(driver, TIMING, stop).await
}

/// The operations of one kind.
struct Driver {
    state: Arc<AppState>,
    recorder: Arc<Recorder>,
    kind: Kind,
    capacity: Capacity,
}

impl leased::Work for Driver {
    fn name(&self) -> &'static str {
        self.kind.as_str()
    }

    async fn begin_due(&mut self) -> Result<Claimed, sqlx::Error> {
        let permits = self.capacity.acquire_all().await;
        let limit = i64::try_from(permits.len()).expect("the permits fit into memory");
        let due = claim_due(&self.state, self.kind, limit).await?;
        let is_full = due.len() == permits.len();
        for (operation, permit) in due.into_iter().zip(permits) {
            self.begin(operation, permit);
        }
        Ok(if is_full { Claimed::Some } else { Claimed::All })
    }

    async fn woken(&mut self) {
        self.state.operations_due[self.kind as usize]
            .notified()
            .await;
    }

    async fn drain(self) {
        self.capacity.drain().await;
    }
}

impl Driver {
    fn begin(&self, operation: Operation, permit: Permit) {
        let (state, recorder) = (Arc::clone(&self.state), Arc::clone(&self.recorder));
        let span = tracing::info_span!(
            "stripe operation",
            booking_id = %operation.booking_id,
            operation = operation.request.kind().as_str(),
            tries = operation.tries,
        );
        let carrying_out = async move { carry_out(&state, &recorder, operation).await };
        self.capacity.begin(permit, carrying_out.instrument(span));
    }
}

/// Claims up to `limit` due operations; with an open breaker one probe, when it is due.
async fn claim_due(
    state: &AppState,
    kind: Kind,
    limit: i64,
) -> Result<Vec<Operation>, sqlx::Error> {
    let (lease, now) = (lease(state), state.now());
    let due = table::claim_due(&state.db, kind, limit, lease, now).await?;
    if !due.is_empty() {
        return Ok(due);
    }
    if breaker::may_probe(&state.db, state.stripe_timeout, now).await? {
        return table::claim_probe(&state.db, lease, now).await;
    }
    Ok(due)
}

/// Length of a lease: enough for all calls of an operation.
pub(crate) fn lease(state: &AppState) -> Duration {
    state.stripe_timeout * CALLS + LEASE_MARGIN
}

/// Performs one operation and records its outcome. After a crash or a failed record the lease
/// expires and the operation is repeated with the same key.
pub(crate) async fn carry_out(state: &AppState, recorder: &Recorder, operation: Operation) {
    let outcome = operations::perform(&state.stripe, &operation, state.now()).await;
    let recorded = match outcome {
        Ok(outcome) => recorder.record(operation, outcome).await,
        Err(failure) => put_off(state, &operation, &failure).await,
    };
    if let Err(error) = recorded {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(
            error,
            "recording an outcome failed; the operation is repeated after its lease"
        );
    }
}

fn log(failure: &Failure) {
    let error = failure as &dyn std::error::Error;
    if failure.is_forbidden() {
        let advice = "give the API key the permission for this call at Stripe";
        tracing::error!(error, advice, "Stripe forbade a call");
    } else {
        tracing::warn!(error, "a call to Stripe has no certain outcome");
    }
}

async fn put_off(
    state: &AppState,
    operation: &Operation,
    failure: &Failure,
) -> Result<(), RecordError> {
    log(failure);
    let now = state.now();
    // Another request holds the object: retry soon, as Stripe itself is up.
    let longest = if failure.is_outage() || failure.is_forbidden() {
        Duration::MAX
    } else {
        MAX_BUSY
    };
    let due = now + backoff(operation.tries, operation.id.0).min(longest);
    let mut conn = state.db.acquire().await?;
    let error = failure.to_string();
    breaker::record(&mut conn, Some(failure), now).await?;
    if table::put_off(&mut conn, operation, due, Some(&error), now).await? {
        Ok(())
    } else {
        Err(RecordError::LeaseLost)
    }
}
