//! Where claims of one node and sale come together: those that arrive while a transaction runs
//! share the next one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::EventId;
use platform::pg;
use platform::problem::Problem;
use tokio::sync::oneshot;

use super::{Claim, Claimant, Passes, Terms};

/// Most claims in one transaction.
const MAX_BATCH: usize = 500;
/// Longest time of one transaction: longer than a lock is waited for. A silent connection must not
/// hold up the claims that come after.
const BATCH_LIMIT: Duration = Duration::from_secs(6);

/// The claims that wait for a transaction.
#[derive(Debug, Clone)]
pub(crate) struct Counter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    passes: Passes,
    /// A sale is in it while its claims are worked off.
    queues: Mutex<HashMap<EventId, Queue>>,
}

#[derive(Debug)]
struct Queue {
    /// Those of the last claim that came.
    terms: Terms,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    claimant: Claimant,
    answer: oneshot::Sender<Result<Claim, Problem>>,
}

impl Counter {
    pub(crate) fn new(passes: Passes) -> Self {
        Self(Arc::new(Inner {
            passes,
            queues: Mutex::default(),
        }))
    }

    /// Claims a pass, together with whoever else claims now.
    ///
    /// # Errors
    /// When PostgreSQL fails; the pass may then be given, and a repeat returns it.
    pub(crate) async fn claim(
        &self,
        event_id: EventId,
        claimant: Claimant,
        terms: Terms,
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
            // On its own, so that nobody's claim ends with the caller who happened to be first.
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
                        // Gone if its caller hung up; a repeat finds the pass.
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
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Works off one sale's claims. If that panics, those who wait are told, and the next claim starts
/// another.
struct Worker<'a> {
    inner: &'a Inner,
    event_id: EventId,
}

impl Worker<'_> {
    /// The next claims; without any, the sale's queue is removed.
    fn next_batch(&self) -> Option<(Terms, Vec<Waiting>)> {
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
