//! Calls of handlers, isolated from panics and bounded in time.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;

/// The failure of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HandlerFailure {
    Panicked,
    TooLate,
}

pub(super) async fn guarded<T>(
    time_limit: Duration,
    work: impl Future<Output = T>,
) -> Result<T, HandlerFailure> {
    let caught = AssertUnwindSafe(work).catch_unwind();
    match tokio::time::timeout(time_limit, caught).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(HandlerFailure::Panicked),
        Err(_) => Err(HandlerFailure::TooLate),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_stays_inside() {
        let outcome = guarded(Duration::from_secs(5), async { panic!("expected") }).await;
        assert_eq!(outcome, Err::<(), _>(HandlerFailure::Panicked));
    }

    #[tokio::test]
    async fn a_hang_ends_at_the_limit() {
        let outcome = guarded(Duration::from_millis(1), std::future::pending::<()>()).await;
        assert_eq!(outcome, Err(HandlerFailure::TooLate));
    }
}
