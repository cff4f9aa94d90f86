//! Group commit of outcomes: plain successes of many operations share a transaction, any other
//! outcome has its own.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::OperationId;
use futures_util::future::join_all;
use platform::batcher::{BatchLimits, BatchWork, Batcher, Job, Unanswered};
use platform::outbox::Staged;
use platform::pg::run_tx;
use platform::service::Context;
use sqlx::PgConnection;

use crate::OWNER;
use crate::batch::{self, Batch};
use crate::operation::{Operation, backoff};
use crate::operations::{self, Next, Outcome, Simple};
use crate::payments;
use crate::state::AppState;
use crate::store::payments::{lock, lock_all, set_intents};
use crate::store::{breaker, operations as table};

/// Why an outcome was not recorded. Nothing of it is committed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("the lease expired, and another worker has the operation")]
    LeaseLost,
    #[error("the recorder did not answer")]
    Unanswered(#[from] Unanswered),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

/// Records the outcomes of this process's operations.
pub(crate) struct Recorder(Batcher<Records>);

impl Recorder {
    pub(crate) fn new(ctx: Context, state: Arc<AppState>) -> Self {
        Self(Batcher::new(Records { ctx, state }, BatchLimits::USUAL))
    }

    /// Records an outcome, and ends the operation or reschedules it.
    pub(crate) async fn record(
        &self,
        operation: Operation,
        outcome: Outcome,
    ) -> Result<(), RecordError> {
        self.0.ask((operation, outcome)).await?
    }
}

struct Records {
    ctx: Context,
    state: Arc<AppState>,
}

impl BatchWork for Records {
    type Item = (Operation, Outcome);
    type Output = Result<(), RecordError>;

    async fn work(&self, jobs: Vec<Job<Self>>) {
        let (outcomes, askers): (Vec<_>, Vec<_>) = jobs.into_iter().map(Job::split).unzip();
        let recording = batch::execute(self, &outcomes)
            .await
            .into_iter()
            .zip(askers);
        join_all(recording.map(async |(recorded, asker)| asker.answer(recorded.await))).await;
    }
}

impl Batch for Records {
    type Item = (Operation, Outcome);
    type Output = Result<(), RecordError>;

    const ITEMS: &'static str = "outcomes";

    async fn together(
        &self,
        outcomes: &[(Operation, Outcome)],
    ) -> Result<Vec<Option<Result<(), RecordError>>>, sqlx::Error> {
        let now = self.state.now();
        let recording = run_tx(&self.ctx.db, "payment record operations", |tx| {
            Box::pin(record_simple(tx, outcomes, now))
        });
        let (recorded, staged) = recording.await?;
        self.ctx.send_soon(staged);
        let done = outcomes
            .iter()
            .map(|(operation, _)| recorded.contains(&operation.id).then_some(Ok(())));
        Ok(done.collect())
    }

    async fn alone(&self, (operation, outcome): &(Operation, Outcome)) -> Result<(), RecordError> {
        let now = self.state.now();
        let recording = run_tx(&self.state.db, "payment record operation", |tx| {
            Box::pin(record(tx, operation, outcome, now))
        });
        recording.await?;
        self.state.wake_after_commit();
        Ok(())
    }
}

/// Records the plain successes; returns the operations that are recorded, and the messages to send
/// after the commit.
async fn record_simple(
    conn: &mut PgConnection,
    outcomes: &[(Operation, Outcome)],
    now: DateTime<Utc>,
) -> Result<(HashSet<OperationId>, Staged), sqlx::Error> {
    let mut staged = Staged::of(OWNER);
    let bookings: Vec<_> = outcomes
        .iter()
        .map(|(operation, _)| operation.booking_id)
        .collect();
    let locked = lock_all(conn, &bookings).await?;

    let (mut simple, mut seen) = (Vec::with_capacity(outcomes.len()), HashSet::new());
    for (operation, outcome) in outcomes {
        // A second operation of the same payment is recorded alone, after the first.
        let payment = locked.get(&operation.booking_id);
        let Some(payment) = payment.filter(|payment| seen.insert(payment.booking_id)) else {
            continue;
        };
        let result = operations::simple(payment, &operation.request, outcome);
        simple.extend(result.map(|result| (operation, payment, result)));
    }
    if simple.is_empty() {
        return Ok((HashSet::new(), staged));
    }
    let operations: Vec<_> = simple.iter().map(|(operation, ..)| *operation).collect();
    let recorded = table::succeed_all(conn, &operations, now).await?;

    let (mut created, mut steps) = (Vec::new(), Vec::new());
    for (operation, payment, result) in simple {
        match result {
            // Its lease expired: the outcome is another worker's to record.
            _ if !recorded.contains(&operation.id) => {}
            Simple::Created(intent) => created.push((payment.booking_id, intent)),
            Simple::Moved(step) => steps.push((payment, step)),
        }
    }
    set_intents(conn, &created, now).await?;
    let messages = payments::advance(conn, steps, now).await?;
    staged.put_all(conn, messages).await?;
    breaker::record(conn, None, now).await?;
    Ok((recorded, staged))
}

/// Records any outcome, and ends the operation or reschedules it.
async fn record(
    conn: &mut PgConnection,
    operation: &Operation,
    outcome: &Outcome,
    now: DateTime<Utc>,
) -> Result<(), RecordError> {
    let booking_id = operation.booking_id;
    let request = &operation.request;
    let payment = lock(conn, booking_id)
        .await?
        .expect("a foreign key keeps the payment of an operation");
    let next = operations::record(conn, &payment, request, outcome, now).await?;
    let later = now + backoff(operation.tries, operation.id.0);
    let is_ours = match &next {
        Next::Succeeded => table::finish(conn, operation, true, None, now).await?,
        Next::Failed(error) | Next::Retry(error) => {
            table::finish(conn, operation, false, Some(error), now).await?
        }
        Next::Wait(error) => table::put_off(conn, operation, later, Some(error), now).await?,
    };
    breaker::record(conn, None, now).await?;
    if !is_ours {
        // Rolls back what was recorded above.
        return Err(RecordError::LeaseLost);
    }
    if matches!(next, Next::Retry(_)) {
        // The new row has no tries yet: backoff by its attempt, too.
        let later = now + backoff(operation.attempt.max(operation.tries), operation.id.0);
        table::insert(conn, booking_id, request, later, now).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use domain::BookingId;
    use platform::testing::TestApp;

    use super::*;
    use crate::operation::Kind;
    use crate::stripe::IntentStatus;
    use crate::testing::{self, intent, operations_of, payment, set_intent};

    fn found(intent_id: &str) -> Outcome {
        Outcome::Intent(intent(intent_id, IntentStatus::AwaitsBuyer))
    }

    async fn leased(state: &AppState) -> HashMap<BookingId, Operation> {
        let (lease, now) = (Duration::from_secs(60), state.now());
        let due = table::claim_due(&state.db, Kind::Create, 10, lease, now).await;
        let due = due.unwrap().into_iter();
        due.map(|operation| (operation.booking_id, operation))
            .collect()
    }

    #[tokio::test]
    async fn what_is_refused_again_and_again_is_asked_less_and_less() {
        let app = TestApp::start().await;
        let state = testing::state(&app);
        let [_refused] = testing::hold(&state).await;
        let recorder = Recorder::new(app.ctx.clone(), Arc::clone(&state));
        for _ in 0..8 {
            let much_later = state.now() + chrono::TimeDelta::hours(1);
            let lease = Duration::from_secs(60);
            let due = table::claim_due(&state.db, Kind::Create, 1, lease, much_later).await;
            let operation = due.unwrap().pop().unwrap();
            let refused = Outcome::NotDone("processing".to_owned());
            recorder.record(operation, refused).await.unwrap();
        }
        let pause: f64 = sqlx::query_scalar(
            "select extract(epoch from next_try_at - updated_at)::double precision
             from payment.operations where state = 'pending'",
        )
        .fetch_one(&state.db)
        .await
        .unwrap();
        assert!((30.0..=60.0).contains(&pause), "{pause} s before the ninth");
        app.finish().await;
    }

    #[tokio::test]
    async fn one_result_that_can_not_be_recorded_holds_up_no_other_of_its_batch() {
        let app = TestApp::start().await;
        let state = testing::state(&app);
        let [other, first, poisoned, last] = testing::hold(&state).await;
        let mut operations = leased(&state).await;
        set_intent(&state, &other, "pi_taken").await;
        let recorder = Recorder::new(app.ctx.clone(), Arc::clone(&state));
        let of = |id: BookingId| operations.get(&id).unwrap().clone();
        // Submitted before the batcher's task runs, so they form one batch.
        let recorded = join_all([
            recorder.record(of(first.booking_id), found("pi_first")),
            recorder.record(of(poisoned.booking_id), found("pi_taken")),
            recorder.record(of(last.booking_id), found("pi_last")),
        ])
        .await;
        assert!(
            matches!(
                recorded.as_slice(),
                [Ok(()), Err(RecordError::Database(_)), Ok(())]
            ),
            "{recorded:?}"
        );
        for (booking, intent_id) in [(&first, "pi_first"), (&last, "pi_last")] {
            let (_, known) = payment(&state, booking).await.unwrap();
            assert_eq!(known.as_deref(), Some(intent_id));
            let (_, ended) = &operations_of(&state, booking).await[0];
            assert_eq!(ended, "succeeded");
        }
        assert_eq!(payment(&state, &poisoned).await.unwrap().1, None);
        assert_eq!(operations_of(&state, &poisoned).await[0].1, "pending");

        // Repeated with an outcome that can be recorded, it is.
        let operation = operations.remove(&poisoned.booking_id).unwrap();
        recorder.record(operation, found("pi_own")).await.unwrap();
        assert_eq!(operations_of(&state, &poisoned).await[0].1, "succeeded");
        app.finish().await;
    }
}
