use std::panic::Location;
use std::time::Duration;

use tokio::time::Instant;

const INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `condition` holds.
///
/// # Panics
/// When it does not within `limit`.
#[track_caller]
pub fn eventually(
    limit: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) -> impl Future<Output = ()> {
    let place = Location::caller();
    async move {
        let deadline = Instant::now() + limit;
        while !condition().await {
            assert!(
                Instant::now() < deadline,
                "not within {limit:?}: the condition at {place}"
            );
            tokio::time::sleep(INTERVAL).await;
        }
    }
}
