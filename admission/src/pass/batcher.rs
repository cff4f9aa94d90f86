//! Group commit of claims, keyed by sale: claims that arrive at this node while a transaction of
//! the sale runs share the next one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use domain::EventId;
use platform::pg;
use platform::problem::Problem;
use platform::sync::MutexExt as _;
use tokio::sync::oneshot;

use super::{Claim, Claimant, PassTerms, Passes};

/// Maximum number of claims in one transaction.
const MAX_BATCH: usize = 500;
/// Deadline of one transaction; exceeds the lock timeout. A silent connection must not block the
/// claims behind it.
const BATCH_LIMIT: Duration = Duration::from_secs(6);

/// Batcher of claims.
#[derive(Debug, Clone)]
pub(crate) struct ClaimBatcher(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    passes: Passes,
    /// A sale is present while a task drains its claims.
    queues: Mutex<HashMap<EventId, Queue>>,
}

#[derive(Debug)]
struct Queue {
    /// The terms of the latest claim.
    terms: PassTerms,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    claimant: Claimant,
    answer: oneshot::Sender<Result<Claim, Problem>>,
}

impl ClaimBatcher {
    pub(crate) fn new(passes: Passes) -> Self {
        Self(Arc::new(Inner {
            passes,
            queues: Mutex::default(),
        }))
    }

    /// Claims a pass in the sale's next group commit.
    ///
    /// # Errors
    /// When PostgreSQL fails; the pass may have been issued, and a repeat returns it.
    pub(crate) async fn claim(
        &self,
        event_id: EventId,
        claimant: Claimant,
        terms: PassTerms,
    ) -> Result<Claim, Problem> {
        let (answer, answered) = oneshot::channel();
        let is_first = {
            let mut queues = self.0.lock();
            let is_first = !queues.contains_key(&event_id);
            let queue = queues.entry(event_id).or_insert_with(|| Queue {
                terms,
                waiting: Vec::new(),
            });
            queue.terms = terms;
            queue.waiting.push(Waiting { claimant, answer });
            is_first
        };
        if is_first {
            // In its own task, so that a batch does not end with the caller that started it.
            tokio::spawn(Arc::clone(&self.0).work_off(event_id));
        }
        answered.await.map_err(|error| Problem::internal(&error))?
    }
}

impl Inner {
    async fn work_off(self: Arc<Self>, event_id: EventId) {
        let worker = Worker {
            inner: &self,
            event_id,
        };
        while let Some((terms, batch)) = worker.next_batch() {
            let claimants: Vec<Claimant> = batch.iter().map(|one| one.claimant).collect();
            metrics::histogram!("admission_claim_batch_size").record(as_float(claimants.len()));
            let claiming = self.passes.claim(event_id, &claimants, terms, None);
            match pg::within(BATCH_LIMIT, Box::pin(claiming)).await {
                Ok(claims) => {
                    for (waiting, claim) in batch.into_iter().zip(claims) {
                        // The receiver is gone if the caller disconnected; a repeat finds the pass.
                        let _ = waiting.answer.send(Ok(claim));
                    }
                }
                Err(error) => {
                    let problem = Problem::from(error);
                    for waiting in batch {
                        let _ = waiting.answer.send(Err(problem.clone()));
                    }
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<EventId, Queue>> {
        self.queues.lock_unpoisoned()
    }
}

/// Drains one sale's claims. If it panics, every waiting claim fails, and the next one starts
/// another worker.
struct Worker<'a> {
    inner: &'a Inner,
    event_id: EventId,
}

impl Worker<'_> {
    /// Takes the next batch; removes the sale's queue when it is empty.
    fn next_batch(&self) -> Option<(PassTerms, Vec<Waiting>)> {
        let mut queues = self.inner.lock();
        let queue = queues.get_mut(&self.event_id)?;
        if queue.waiting.is_empty() {
            queues.remove(&self.event_id);
            return None;
        }
        let count = queue.waiting.len().min(MAX_BATCH);
        Some((queue.terms, queue.waiting.drain(..count).collect()))
    }
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.inner.lock().remove(&self.event_id);
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a batch is small")]
fn as_float(size: usize) -> f64 {
    size as f64
}
