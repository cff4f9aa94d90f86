//! Group commit: requests of many tasks are executed in batches. One that arrives while a batch
//! runs joins the next, which takes all that are queued. An idle batcher runs a request at once; a
//! busy one combines hundreds into one commit.

mod group;

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::pg;
use crate::problem::{Kind, Problem};
use crate::sync::MutexExt as _;

pub use group::{GroupCommit, Grouped, commit_each};

/// Executes requests of one kind, a batch at a time, for a [`Batcher`].
pub trait BatchWork: Send + Sync + Sized + 'static {
    /// A request.
    type Item: Send + 'static;
    /// A response.
    type Output: Send + 'static;

    /// Executes a batch and answers each job. An unanswered one fails with
    /// [`Unanswered::Failed`].
    fn work(&self, jobs: Vec<Job<Self>>) -> impl Future<Output = ()> + Send;
}

/// A request and its caller.
pub struct Job<W: BatchWork> {
    /// The request.
    pub item: W::Item,
    /// The caller.
    pub asker: Asker<W::Output>,
}

impl<W: BatchWork> Job<W> {
    /// Splits into the request and its caller.
    #[must_use]
    pub fn split(self) -> (W::Item, Asker<W::Output>) {
        (self.item, self.asker)
    }
}

/// A caller that waits for a response.
pub struct Asker<A>(oneshot::Sender<A>);

impl<A> Asker<A> {
    /// Sends the response; a caller that has gone is ignored.
    pub fn answer(self, answer: A) {
        let _gone = self.0.send(answer);
    }
}

/// Failure of a request without a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// The queue is full; nothing was executed.
    #[error("too many wait already")]
    Full,
    /// The batch failed: the outcome is unknown.
    #[error("the work ended without an answer")]
    Failed,
}

impl From<Unanswered> for Problem {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Full => Self::new(
                Kind::Overloaded,
                "Too many requests wait at this moment; try again in a moment.",
            ),
            Unanswered::Failed => Self::overloaded(&unanswered),
        }
    }
}

/// Bounds of a batcher's batches and of its queue.
#[derive(Debug, Clone, Copy)]
pub struct BatchLimits {
    /// Most requests in a batch.
    pub batch: usize,
    /// Most queued requests; more are refused.
    pub waiting: usize,
    /// Timeout of a batch, which is then dropped and fails all its requests.
    pub time: Duration,
    /// Shortest time from the start of one batch to that of the next. A batcher that was idle for
    /// longer adds no delay; under load, fewer and larger batches save commits.
    pub pace: Duration,
}

impl BatchLimits {
    /// Suits statements that take some milliseconds: batches of 512, 6 s each.
    pub const USUAL: Self = Self {
        batch: 512,
        waiting: 100_000,
        // Above the lock timeout.
        time: Duration::from_secs(6),
        pace: Duration::from_millis(20),
    };
}

/// A queue of requests and the worker that executes them.
pub struct Batcher<W: BatchWork>(Arc<Shared<W>>);

struct Shared<W: BatchWork> {
    worker: W,
    limits: BatchLimits,
    queue: Mutex<Queue<W>>,
}

struct Queue<W: BatchWork> {
    waiting: Vec<Job<W>>,
    /// True while a task drains the queue.
    is_worked: bool,
}

impl<W: BatchWork> Batcher<W> {
    /// Creates an empty batcher.
    pub fn new(worker: W, limits: BatchLimits) -> Self {
        let queue = Queue {
            waiting: Vec::new(),
            is_worked: false,
        };
        Self(Arc::new(Shared {
            worker,
            limits,
            queue: Mutex::new(queue),
        }))
    }

    /// Enqueues a request and waits for the response. It is executed even if the caller goes away.
    ///
    /// # Errors
    /// When the queue is full, or the batch fails.
    pub async fn ask(&self, item: W::Item) -> Result<W::Output, Unanswered> {
        let (sender, answered) = oneshot::channel();
        let asker = Asker(sender);
        self.add(Job { item, asker })?;
        answered.await.map_err(|_| Unanswered::Failed)
    }

    fn add(&self, job: Job<W>) -> Result<(), Unanswered> {
        let mut queue = self.0.lock();
        if queue.waiting.len() >= self.0.limits.waiting {
            return Err(Unanswered::Full);
        }
        queue.waiting.push(job);
        if !queue.is_worked {
            queue.is_worked = true;
            // A task of its own: the caller may be cancelled.
            tokio::spawn(work_until_none_waits(Arc::clone(&self.0)));
        }
        Ok(())
    }
}

async fn work_until_none_waits<W: BatchWork>(shared: Arc<Shared<W>>) {
    while let Some(jobs) = shared.next_batch() {
        let next = Instant::now() + shared.limits.pace;
        // A panic ends this batch and nothing else; its hook has logged it.
        let working = AssertUnwindSafe(shared.worker.work(jobs)).catch_unwind();
        let limited = async { working.await.or(Ok::<_, sqlx::Error>(())) };
        // A silent connection must not block the batches behind it.
        if let Err(error) = pg::within(shared.limits.time, limited).await {
            tracing::warn!(%error, "a batch took too long");
        }
        tokio::time::sleep_until(next).await;
    }
}

impl<W: BatchWork> Shared<W> {
    fn lock(&self) -> MutexGuard<'_, Queue<W>> {
        self.queue.lock_unpoisoned()
    }

    /// Takes the next batch; `None` ends the drain when the queue is empty.
    fn next_batch(&self) -> Option<Vec<Job<W>>> {
        let mut queue = self.lock();
        if queue.waiting.is_empty() {
            queue.is_worked = false;
            return None;
        }
        let count = queue.waiting.len().min(self.limits.batch);
        let rest = queue.waiting.split_off(count);
        Some(std::mem::replace(&mut queue.waiting, rest))
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use tokio::sync::Semaphore;

    use super::*;

    const PACE: Duration = Duration::from_millis(5);

    /// Waits for a permit per batch; panics on zero; answers the others with the size of their
    /// batch.
    struct Doubtful(Semaphore);

    impl BatchWork for Doubtful {
        type Item = u32;
        type Output = usize;

        async fn work(&self, jobs: Vec<Job<Self>>) {
            self.0.acquire().await.unwrap().forget();
            let count = jobs.len();
            for job in jobs {
                assert_ne!(job.item, 0, "expected");
                job.asker.answer(count);
            }
        }
    }

    fn batcher(batches_let: usize) -> Batcher<Doubtful> {
        let limits = BatchLimits {
            batch: 3,
            waiting: 5,
            time: Duration::from_secs(60),
            pace: PACE,
        };
        Batcher::new(Doubtful(Semaphore::new(batches_let)), limits)
    }

    #[tokio::test]
    async fn what_comes_while_a_batch_is_under_way_is_the_next() {
        let batcher = batcher(10);
        let all = join_all((1..=5).map(|number| batcher.ask(number))).await;
        assert_eq!(all, [Ok(3), Ok(3), Ok(3), Ok(2), Ok(2)]);
        assert_eq!(batcher.ask(6).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn batches_keep_their_pace_and_an_idle_batcher_adds_no_delay() {
        let batcher = batcher(10);
        let began = Instant::now();
        assert_eq!(batcher.ask(1).await, Ok(1));
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert_eq!(
            join_all([2, 3].map(|number| batcher.ask(number))).await,
            [Ok(2); 2]
        );
        assert_eq!(began.elapsed(), PACE);
        tokio::time::advance(PACE).await;
        let began = Instant::now();
        assert_eq!(batcher.ask(4).await, Ok(1));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_ends_its_own_batch_only() {
        let batcher = batcher(10);
        let all = join_all([7, 0, 7, 7].map(|number| batcher.ask(number)));
        let all = tokio::time::timeout(PACE * 10, all).await;
        let failed = Err(Unanswered::Failed);
        assert_eq!(all.unwrap(), [Ok(3), failed, failed, Ok(1)]);
        assert_eq!(batcher.ask(7).await, Ok(1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_hangs_ends_at_its_limit_and_the_next_is_done() {
        let batcher = batcher(0);
        let begun = Instant::now();
        assert_eq!(batcher.ask(1).await, Err(Unanswered::Failed));
        assert_eq!(begun.elapsed(), Duration::from_secs(60));
        batcher.0.worker.0.add_permits(1);
        assert_eq!(batcher.ask(2).await, Ok(1));
    }

    #[tokio::test]
    async fn who_comes_while_too_many_wait_is_refused_and_the_others_are_not() {
        let batcher = batcher(0);
        let mut first: Vec<_> = (1..=5)
            .map(|number| Box::pin(batcher.ask(number)))
            .collect();
        for asking in &mut first {
            assert!(asking.now_or_never().is_none());
        }
        let refused = batcher.ask(6).now_or_never();
        assert_eq!(refused, Some(Err(Unanswered::Full)));
        batcher.0.worker.0.add_permits(10);
        assert_eq!(
            join_all(first).await,
            [Ok(3), Ok(3), Ok(3), Ok(2), Ok(2)],
            "those before it are served"
        );
        assert_eq!(batcher.ask(7).await, Ok(1));
    }

    #[tokio::test]
    async fn it_is_done_even_if_the_caller_leaves() {
        let batcher = batcher(1);
        assert!(batcher.ask(1).now_or_never().is_none());
        let permits = || batcher.0.worker.0.available_permits();
        crate::testing::eventually(std::time::Duration::from_secs(30), async || permits() == 0)
            .await;
    }
}
