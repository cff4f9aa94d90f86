//! Polling of conditions outside this process, with a deadline.

use std::thread;
use std::time::{Duration, Instant};

/// Poll interval.
const INTERVAL: Duration = Duration::from_millis(50);

/// Polls `check` until it returns `Some`, or returns `None` after `patience`.
///
/// The check runs at least once, and once more after the deadline has passed.
pub(crate) fn until<T>(patience: Duration, mut check: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + patience;
    loop {
        let last = Instant::now() >= deadline;
        if let Some(found) = check() {
            return Some(found);
        }
        if last {
            return None;
        }
        pause();
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this crate blocks by contract; nothing announces that another process is ready"
)]
fn pause() {
    thread::sleep(INTERVAL);
}
