//! Shutdown in two stages: soft (drain), then hard (abort).

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, OnceLock};

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The two stages of shutdown, and the tasks that must have left before it is complete.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    soft: CancellationToken,
    hard: CancellationToken,
    tasks: TaskTracker,
    crashed: Arc<OnceLock<&'static str>>,
}

impl Shutdown {
    /// Cancelled when no new work may begin: finish what runs, then leave.
    #[must_use]
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled when everything must stop at once; tasks are dropped where they stand.
    #[must_use]
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// The task whose error or panic began the shutdown.
    #[must_use]
    pub fn crashed(&self) -> Option<&'static str> {
        self.crashed.get().copied()
    }

    /// Runs `task` under supervision. If it fails or panics before soft shutdown, that begins the
    /// shutdown, and the process will end with a non-zero status. At hard shutdown it is dropped.
    pub fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        let shutdown = self.clone();
        self.tasks.spawn(async move {
            let caught = AssertUnwindSafe(task).catch_unwind();
            let Some(outcome) = shutdown.hard.run_until_cancelled(caught).await else {
                tracing::warn!(task = name, "dropped by hard shutdown");
                return;
            };
            match outcome {
                Ok(Ok(())) => tracing::debug!(task = name, "task ended"),
                Ok(Err(error)) => shutdown.crash(name, &format!("{error:#}")),
                // The panic hook has logged the message.
                Err(_) => shutdown.crash(name, "panicked"),
            }
        });
    }

    /// Waits until every task has left. Call after soft shutdown, or it may wait for ever.
    pub async fn tasks_left(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn crash(&self, name: &'static str, error: &str) {
        tracing::error!(task = name, error, "task failed");
        if !self.soft.is_cancelled() {
            // Only the first counts: those that follow are often its consequence.
            let _ = self.crashed.set(name);
            self.soft.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_fails_ends_the_process() {
        let shutdown = Shutdown::default();
        shutdown.spawn("fails", async { anyhow::bail!("no") });
        shutdown.soft().cancelled().await;
        assert_eq!(shutdown.crashed(), Some("fails"));
        shutdown.tasks_left().await;
    }

    #[tokio::test]
    async fn a_task_that_panics_ends_the_process() {
        let shutdown = Shutdown::default();
        shutdown.spawn("panics", async { panic!("no") });
        shutdown.soft().cancelled().await;
        assert_eq!(shutdown.crashed(), Some("panics"));
    }

    #[tokio::test]
    async fn a_task_that_finishes_or_fails_while_leaving_is_no_crash() {
        let shutdown = Shutdown::default();
        shutdown.spawn("finishes", async { Ok(()) });
        let soft = shutdown.soft().clone();
        shutdown.spawn("leaves badly", async move {
            soft.cancelled().await;
            anyhow::bail!("the connection was closed")
        });
        shutdown.soft().cancel();
        shutdown.tasks_left().await;
        assert_eq!(shutdown.crashed(), None);
    }

    #[tokio::test]
    async fn hard_shutdown_drops_a_task_that_does_not_leave() {
        let shutdown = Shutdown::default();
        shutdown.spawn("stays", std::future::pending());
        shutdown.soft().cancel();
        shutdown.hard().cancel();
        shutdown.tasks_left().await;
    }
}
