//! Lateness of the machine itself, so that a bound of time judges the program and not whatever else
//! runs beside the tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use platform::testing::eventually;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgPool};
use tokio::time::MissedTickBehavior;

const PERIOD: Duration = Duration::from_millis(50);
/// Waits in a row, on timers and on PostgreSQL, between an event and the call that a test times.
const STEPS: u32 = 4;
/// Longest wait for what has a bound of its own.
const LIMIT: Duration = Duration::from_secs(60);

/// Records the longest time from when a trivial statement was due until it was answered. It has a
/// thread and a connection of its own, so that a program which blocks its runtime is not excused.
pub(crate) struct Machine {
    stop: Arc<AtomicBool>,
    worst_millis: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Machine {
    pub(crate) fn watch(db: &PgPool) -> Self {
        let stop = Arc::new(AtomicBool::default());
        let worst_millis = Arc::new(AtomicU64::default());
        let options = PgConnectOptions::clone(&db.connect_options());
        let thread = std::thread::spawn({
            let (stop, worst_millis) = (Arc::clone(&stop), Arc::clone(&worst_millis));
            move || {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap()
                    .block_on(probe(&options, &stop, &worst_millis));
            }
        });
        Self {
            stop,
            worst_millis,
            thread,
        }
    }

    /// `bound` and the lateness that the machine may add to it; on an idle machine some 50 ms.
    pub(crate) fn extend(&self, bound: Duration) -> Duration {
        let worst = Duration::from_millis(self.worst_millis.load(Ordering::Relaxed));
        bound + STEPS * worst
    }

    /// Waits until `condition` holds, and asserts that this took no longer than `bound` and what
    /// the machine adds: its lateness, and the waits of this thread, the test's, for a core.
    pub(crate) async fn holds_within(&self, bound: Duration, condition: impl AsyncFnMut() -> bool) {
        let (begun, before) = (Instant::now(), waits_for_a_core());
        eventually(LIMIT, condition).await;
        let waited = waits_for_a_core().saturating_sub(before);
        let (took, bound) = (begun.elapsed(), self.extend(bound) + waited);
        assert!(took < bound, "{took:?}, more than {bound:?}");
    }

    /// Returns whether the machine was in time for `lease`: otherwise it may have expired by right.
    pub(crate) fn is_in_time_for(&self, lease: Duration) -> bool {
        self.extend(Duration::ZERO) < lease
    }

    /// Closes the connection.
    pub(crate) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// Returns the time that this thread could have run and had no core; zero where Linux does not say.
fn waits_for_a_core() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let waited = times.split(' ').nth(1).and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(waited.unwrap_or(0))
}

async fn probe(options: &PgConnectOptions, stop: &AtomicBool, worst_millis: &AtomicU64) {
    let mut conn = options.connect().await.unwrap();
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        let due = ticks.tick().await;
        sqlx::query("select 1").execute(&mut conn).await.unwrap();
        let late = u64::try_from(due.elapsed().as_millis()).unwrap();
        worst_millis.fetch_max(late, Ordering::Relaxed);
    }
    conn.close().await.unwrap();
}
