//! Batches of commands: one transaction for all, one each when a poison message makes it fail, and
//! retries with backoff in place, so that a short outage of the database does not change their
//! order.

use std::time::Duration;

use platform::backoff::Backoff;
use platform::shutdown::Shutdown;
use tokio::time::Instant;

use crate::error::WorkError;

/// One transaction on commands of one kind.
pub(crate) trait Transaction {
    type Command: Sync;
    type Output: Send;

    /// Executes all commands, or none; returns an output for each, in order.
    fn attempt(
        &self,
        commands: &[Self::Command],
    ) -> impl Future<Output = Result<Vec<Self::Output>, WorkError>> + Send;
}

/// Longest wait for the database in an outage; then the messages go to a retry queue, where they
/// lose their order. Well below the time limit of a batch.
const PATIENCE: Duration = Duration::from_secs(20);
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// Executes the commands of one batch, within [`PATIENCE`].
pub(crate) struct Runner<'a> {
    shutdown: &'a Shutdown,
    patient_until: Instant,
}

impl<'a> Runner<'a> {
    /// Starts the time limit of a batch that has just arrived.
    pub(crate) fn new(shutdown: &'a Shutdown) -> Self {
        Self {
            shutdown,
            patient_until: Instant::now() + PATIENCE,
        }
    }

    /// Carries out `commands` together, or each alone when one of them may be at fault. `None` for
    /// a command that failed, which is logged.
    pub(crate) async fn settle<W: Transaction + Sync>(
        &self,
        work: &W,
        commands: &[W::Command],
    ) -> Vec<Option<W::Output>> {
        match self.ride_out(work, commands).await {
            Ok(answers) => answers.into_iter().map(Some).collect(),
            Err(error) if commands.len() == 1 || error.is_outage() => {
                log(&error, commands.len());
                commands.iter().map(|_| None).collect()
            }
            Err(_) => self.settle_each(work, commands).await,
        }
    }

    async fn settle_each<W: Transaction + Sync>(
        &self,
        work: &W,
        commands: &[W::Command],
    ) -> Vec<Option<W::Output>> {
        let mut answers = Vec::with_capacity(commands.len());
        for command in commands {
            let answer = self.ride_out(work, std::slice::from_ref(command)).await;
            let answer = answer.inspect_err(|error| log(error, 1)).ok();
            answers.push(answer.and_then(|mut answers| answers.pop()));
        }
        answers
    }

    /// Retries with backoff while the database is away.
    async fn ride_out<W: Transaction>(
        &self,
        work: &W,
        commands: &[W::Command],
    ) -> Result<Vec<W::Output>, WorkError> {
        let mut failures = 0;
        loop {
            failures += 1;
            let pause = BACKOFF.after(failures);
            match work.attempt(commands).await {
                Err(error) if error.is_outage() && self.has_time_for(pause) => {
                    tokio::time::sleep(pause).await;
                }
                result => return result,
            }
        }
    }

    fn has_time_for(&self, pause: Duration) -> bool {
        Instant::now() + pause < self.patient_until && !self.shutdown.soft().is_cancelled()
    }
}

fn log(error: &WorkError, commands: usize) {
    let error: &dyn std::error::Error = error;
    tracing::warn!(error, commands, "commands failed; retrying");
}
