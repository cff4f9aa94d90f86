//! Leased work (competing consumers): a loop claims due rows under a lease, or visibility timeout,
//! and begins them with no transaction open. The rows of a process that died are due again when
//! their lease expires.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Pause after a failure of the database, whatever is due.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Bounds on the time between two claims.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Shortest time between two claims, so that a busy loop claims in batches.
    pub pace: Duration,
    /// Longest time between two claims of an idle loop that is not woken.
    pub idle: Duration,
}

/// The result of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claimed {
    /// More may be due.
    Some,
    /// Nothing else is due.
    All,
    /// Nothing may begin before this instant, unless the loop is woken.
    NotBefore(Instant),
}

/// The claims of a loop, and the work on claimed rows.
pub trait Work: Send {
    /// The loop's name in logs.
    fn name(&self) -> &'static str;

    /// Claims due rows, as many as there is room for, and begins them.
    fn begin_due(&mut self) -> impl Future<Output = Result<Claimed, sqlx::Error>> + Send;

    /// Completes when more may be due. A wake-up between two calls is remembered for the next.
    fn woken(&mut self) -> impl Future<Output = ()> + Send;

    /// Finishes what was begun.
    fn drain(self) -> impl Future<Output = ()> + Send;
}

/// Claims and begins work until `stop`, then drains.
///
/// # Errors
/// None: whatever fails is tried again. The type is that of a task.
pub async fn run(
    mut work: impl Work,
    timing: Timing,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        let next = Instant::now() + timing.pace;
        let idle_until = match work.begin_due().await {
            Ok(Claimed::Some) => next,
            Ok(Claimed::All) => Instant::now() + timing.idle,
            Ok(Claimed::NotBefore(at)) => at,
            Err(error) => {
                log(work.name(), &error);
                stop.run_until_cancelled(sleep(FAILURE_PAUSE)).await;
                continue;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep_until(idle_until) => {}
            () = work.woken() => {}
        }
        stop.run_until_cancelled(sleep_until(next)).await;
    }
    work.drain().await;
    Ok(())
}

fn log(work: &'static str, error: &sqlx::Error) {
    let error: &dyn Error = error;
    tracing::warn!(work, error, "claiming failed; retrying");
}

/// Bound on the rows in flight, and the tasks that work on them.
#[derive(Debug)]
pub struct Capacity {
    permits: Arc<Semaphore>,
    tracker: TaskTracker,
}

/// The right to work on one row; dropping it releases it.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

impl Capacity {
    /// Allows `permits` rows at once.
    #[must_use]
    pub fn new(permits: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(permits)),
            tracker: TaskTracker::new(),
        }
    }

    /// Waits for a permit, then takes all that are free, so that no row is leased without one.
    pub async fn acquire_all(&self) -> Vec<Permit> {
        let first = Arc::clone(&self.permits).acquire_owned().await;
        let mut taken = vec![Permit(first.expect("the semaphore is never closed"))];
        while let Ok(more) = Arc::clone(&self.permits).try_acquire_owned() {
            taken.push(Permit(more));
        }
        taken
    }

    /// Spawns the work on a row, which holds `permit` until it ends.
    pub fn begin(&self, permit: Permit, row: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(async move {
            row.await;
            drop(permit);
        });
    }

    /// Waits for the rows in flight.
    pub async fn drain(self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;

    use tokio::sync::Notify;

    use super::*;
    use crate::sync::MutexExt as _;

    const TIMING: Timing = Timing {
        pace: Duration::from_millis(30),
        idle: Duration::from_millis(500),
    };

    /// Plays results, and notes when it was asked, since the start; then stops the loop.
    struct Script {
        results: VecDeque<Result<Claimed, sqlx::Error>>,
        asked: Arc<Mutex<Vec<u128>>>,
        started: Instant,
        waker: Arc<Notify>,
        stop: CancellationToken,
    }

    impl Work for Script {
        fn name(&self) -> &'static str {
            "script"
        }

        async fn begin_due(&mut self) -> Result<Claimed, sqlx::Error> {
            let at = self.started.elapsed().as_millis();
            self.asked.lock_unpoisoned().push(at);
            let result = self.results.pop_front().unwrap_or(Ok(Claimed::All));
            if self.results.is_empty() {
                self.stop.cancel();
            }
            result
        }

        async fn woken(&mut self) {
            self.waker.notified().await;
        }

        async fn drain(self) {}
    }

    /// Returns the times at which a loop with these results claims, in milliseconds.
    async fn claims(
        results: Vec<Result<Claimed, sqlx::Error>>,
        woken_at: Option<u64>,
    ) -> Vec<u128> {
        let (asked, waker) = (Arc::default(), Arc::new(Notify::new()));
        let stop = CancellationToken::new();
        let work = Script {
            results: results.into(),
            asked: Arc::clone(&asked),
            started: Instant::now(),
            waker: Arc::clone(&waker),
            stop: stop.clone(),
        };
        let waking = async {
            if let Some(at) = woken_at {
                sleep(Duration::from_millis(at)).await;
                waker.notify_one();
            }
        };
        let (done, ()) = tokio::join!(run(work, TIMING, stop), waking);
        done.unwrap();
        std::mem::take(&mut asked.lock_unpoisoned())
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_loop_claims_at_its_pace_and_an_idle_one_waits() {
        let results = vec![Ok(Claimed::Some), Ok(Claimed::All), Ok(Claimed::All)];
        assert_eq!(claims(results, None).await, [0, 30, 530]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_up_ends_a_wait_but_not_the_pace() {
        let results = || vec![Ok(Claimed::All), Ok(Claimed::All)];
        assert_eq!(claims(results(), Some(100)).await, [0, 100]);
        assert_eq!(claims(results(), Some(10)).await, [0, 30]);
        let at = Instant::now() + Duration::from_secs(5);
        let results = vec![Ok(Claimed::NotBefore(at)), Ok(Claimed::All)];
        assert_eq!(claims(results, None).await, [0, 5_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_is_waited_out_whoever_wakes() {
        let results = vec![Err(sqlx::Error::PoolTimedOut), Ok(Claimed::All)];
        assert_eq!(claims(results, Some(10)).await, [0, 1_000]);
    }

    #[tokio::test(start_paused = true)]
    async fn capacity_is_acquired_whole_and_drained() {
        let capacity = Capacity::new(2);
        let taken = capacity.acquire_all().await;
        assert_eq!(taken.len(), 2);
        let started = Instant::now();
        for (permit, seconds) in taken.into_iter().zip([3, 5]) {
            capacity.begin(permit, sleep(Duration::from_secs(seconds)));
        }
        assert_eq!(capacity.acquire_all().await.len(), 1);
        assert_eq!(started.elapsed(), Duration::from_secs(3));
        capacity.drain().await;
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }
}
