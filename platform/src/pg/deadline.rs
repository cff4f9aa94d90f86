//! Client-side deadlines. A server that dies without a reset, or a firewall that drops a
//! connection, leaves a statement waiting until the kernel's timeout, some 15 minutes later, with
//! its slot in the pool taken.

use std::future::Future;
use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::away;

/// Shortest time between two renewals of all connections.
const RENEWAL_PAUSE: Duration = Duration::from_secs(1);
/// The origin of what the atomics count.
static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
/// Connections last used before this are pinged before they are used again.
static DOUBTED: AtomicU64 = AtomicU64::new(0);
/// Connections opened before this are replaced instead of used.
static RENEWED: AtomicU64 = AtomicU64::new(0);

/// Milliseconds since the origin; 0 is never.
fn millis(at: Instant) -> u64 {
    let elapsed = at.saturating_duration_since(*ORIGIN).as_millis();
    u64::try_from(elapsed).unwrap_or(u64::MAX).saturating_add(1)
}

/// Marks every connection of the process as doubtful: each is pinged before its next use. Called
/// when a deadline expired that may have been a silent connection's fault.
pub fn doubt() {
    DOUBTED.fetch_max(millis(Instant::now()), Ordering::Relaxed);
}

/// Returns whether a connection last used at `used` must be pinged.
pub(super) fn is_doubted(used: Instant) -> bool {
    millis(used) <= DOUBTED.load(Ordering::Relaxed)
}

/// Marks every open connection to be replaced before its next use.
pub fn renew_connections() {
    renew(Duration::ZERO);
}

/// [`renew_connections`], at most once in `pause`.
pub(super) fn renew(pause: Duration) {
    let now = millis(Instant::now());
    let pause = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
    let due = |last: u64| (last == 0 || last.saturating_add(pause) <= now).then_some(now);
    let _recent = RENEWED.fetch_update(Ordering::Relaxed, Ordering::Relaxed, due);
}

/// Returns whether a connection opened at `opened` must be replaced.
pub(super) fn is_replaced(opened: Instant) -> bool {
    // The one whose opening showed that the others are silent is younger by some milliseconds.
    millis(opened) < RENEWED.load(Ordering::Relaxed)
}

/// Runs `work`, at most for `limit`. On expiry its future is dropped, which closes the connection
/// it used, and whether PostgreSQL did what it was asked is unknown.
///
/// # Errors
/// The error of `work`, or [`sqlx::Error::Io`] of kind `TimedOut`.
pub async fn within<T, E: From<sqlx::Error> + std::error::Error + 'static>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let outcome = {
        let work = std::pin::pin!(work);
        let outcome = tokio::time::timeout(limit, work).await;
        if outcome.is_err() {
            // Before the future is dropped, so that its connection is returned under doubt.
            doubt();
            metrics::counter!("pg_deadlines_expired_total").increment(1);
        }
        outcome
    };
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            super::sources(&error).for_each(observe);
            Err(error)
        }
        Err(_) => Err(expired(limit).into()),
    }
}

/// Renews the pool's connections after an error that other connections would meet as well, and
/// remembers that a disk is full.
pub(crate) fn observe(error: &sqlx::Error) {
    away::remember_refusal(error);
    if away::has_moved(error) {
        renew(RENEWAL_PAUSE);
    }
}

fn expired(limit: Duration) -> sqlx::Error {
    let message = format!("PostgreSQL did not answer within {limit:?}");
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, message))
}

/// The deadline of a loop that reads often: short, so that a silent connection is replaced soon,
/// and doubled with each expiry, so that a slow database is waited for in the end.
#[derive(Debug, Clone)]
pub struct Patience {
    shortest: Duration,
    longest: Duration,
    current: Duration,
}

impl Patience {
    /// From `shortest` up to `longest`.
    #[must_use]
    pub fn between(shortest: Duration, longest: Duration) -> Self {
        Self {
            shortest,
            longest,
            current: shortest,
        }
    }

    /// Runs `work` within the current deadline.
    ///
    /// # Errors
    /// As [`within`].
    pub async fn bound<T, E: From<sqlx::Error> + std::error::Error + 'static>(
        &mut self,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let limit = self.current;
        let begun = tokio::time::Instant::now();
        let outcome = within(limit, work).await;
        self.current = if outcome.is_err() && begun.elapsed() >= limit {
            (limit * 2).min(self.longest)
        } else {
            self.shortest
        };
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_waits_longer_after_each_expiry_and_short_again_after_an_answer() {
        let mut patience = Patience::between(Duration::from_secs(1), Duration::from_secs(3));
        let mut waited = Vec::new();
        for _ in 0..3 {
            let begun = tokio::time::Instant::now();
            let silent = std::future::pending::<Result<(), sqlx::Error>>();
            let error = patience.bound(silent).await.unwrap_err();
            assert!(super::super::is_away(&error), "{error}");
            waited.push(begun.elapsed().as_secs());
        }
        assert_eq!(waited, [1, 2, 3]);
        let answer = patience.bound(async { Ok::<_, sqlx::Error>(7) }).await;
        assert_eq!(answer.unwrap(), 7);
        assert_eq!(patience.current, Duration::from_secs(1));
    }
}
