//! Waits on conditions, each with a time limit.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use tokio::process::Child;
use tokio::time::{Instant, sleep};

/// Time limit of a wait for a process.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Looks until nothing is wrong any more.
///
/// # Errors
/// Those of `look`; and what is still wrong after `limit`.
pub(super) async fn until_right(
    limit: Duration,
    mut look: impl AsyncFnMut() -> anyhow::Result<Option<String>>,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    while let Some(wrong) = look().await? {
        ensure!(begun.elapsed() < limit, "{wrong}");
        sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// Waits until the process answers that it is ready.
///
/// # Errors
/// When it ends instead, or is not ready within a minute.
pub(super) async fn until_ready(
    child: &mut Child,
    http: &reqwest::Client,
    ops: SocketAddr,
) -> anyhow::Result<()> {
    let url = format!("http://{ops}/readyz");
    until_right(PATIENCE, async || {
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("onsale ended: {status}");
        }
        let answer = http.get(&url).send().await;
        let is_ready = answer.is_ok_and(|answer| answer.status().is_success());
        Ok((!is_ready).then(|| "onsale does not become ready".to_owned()))
    })
    .await
}

/// Waits until `url` answers as it should.
///
/// # Errors
/// When it does not answer, or not so within a minute.
pub(super) async fn until_answer(
    http: &reqwest::Client,
    url: &str,
    is_right: impl Fn(&Value) -> bool,
) -> anyhow::Result<()> {
    until_right(PATIENCE, async || {
        let answer = http.get(url).send().await?.json().await;
        let answer: Value = answer.unwrap_or_default();
        Ok((!is_right(&answer)).then(|| format!("{url} still answers {answer}")))
    })
    .await
}
