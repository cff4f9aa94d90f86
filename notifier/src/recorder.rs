//! Group commit of handovers and results: changes that arrive while a statement runs share the next
//! one.

use std::sync::Arc;
use std::time::Duration;

use platform::batcher::{BatchLimits, Batcher, GroupCommit, Grouped, Unanswered};
use tokio_util::sync::CancellationToken;

use crate::state::AppState;
use crate::store::queue::{self, EndedAttempt, Try};

/// Records state changes of all messages of one channel.
pub(crate) struct Recorder {
    ended: Batcher<Grouped<EndedTries, RecordError>>,
    handed_over: Batcher<Grouped<Handovers, RecordError>>,
}

/// Error of recording a change.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("the database failed")]
    Database(#[source] Arc<sqlx::Error>),
    #[error("the recorder did not answer")]
    Unanswered(#[from] Unanswered),
}

impl From<sqlx::Error> for RecordError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(Arc::new(error))
    }
}

impl Recorder {
    /// Starts both batchers; a handover is leased for `lease`.
    pub(crate) fn new(state: &Arc<AppState>, lease: Duration) -> Self {
        let handovers = Handovers {
            state: Arc::clone(state),
            lease,
        };
        Self {
            ended: Batcher::new(EndedTries(Arc::clone(state)).into(), BatchLimits::USUAL),
            handed_over: Batcher::new(handovers.into(), BatchLimits::USUAL),
        }
    }

    /// Records the result of an attempt. Returns `false` if a later attempt has taken the message
    /// over, or it was withdrawn.
    ///
    /// # Errors
    /// When the outcome of the statement is unknown; idempotent, so to be repeated.
    pub(crate) async fn record(&self, ended: EndedAttempt) -> Result<bool, RecordError> {
        self.ended.ask(ended).await?
    }
}

/// The point of no return of an attempt, after which its message may have been sent.
pub(crate) struct Handover<'a> {
    pub(crate) recorder: &'a Recorder,
    pub(crate) attempt: Try,
    /// Once cancelled, no handover begins, since there may be no time left for the answer.
    pub(crate) stop: &'a CancellationToken,
}

impl Handover<'_> {
    /// Marks the message as `sending`. Must be called right before the data is transferred.
    ///
    /// # Errors
    /// The reason for which the message must not be sent.
    pub(crate) async fn begin(&self) -> Result<(), String> {
        if self.stop.is_cancelled() {
            return Err("the sender is shutting down".into());
        }
        let begun = match self.recorder.handed_over.ask(self.attempt).await {
            Ok(begun) => begun,
            Err(unanswered) => Err(unanswered.into()),
        };
        match begun {
            Ok(true) => Ok(()),
            Ok(false) => Err("the message was taken over or withdrawn".into()),
            Err(error) => Err(platform::causes::with_causes(&error)),
        }
    }
}

struct EndedTries(Arc<AppState>);

impl GroupCommit for EndedTries {
    type Item = EndedAttempt;
    type Output = bool;

    async fn commit(&self, ended: &[EndedAttempt]) -> Result<Vec<bool>, sqlx::Error> {
        let recorded = queue::record(&self.0.db, ended, self.0.now()).await?;
        let is_recorded = |ended: &EndedAttempt| recorded.contains(&ended.attempt.id);
        Ok(ended.iter().map(is_recorded).collect())
    }
}

struct Handovers {
    state: Arc<AppState>,
    lease: Duration,
}

impl GroupCommit for Handovers {
    type Item = Try;
    type Output = bool;

    async fn commit(&self, tries: &[Try]) -> Result<Vec<bool>, sqlx::Error> {
        let until = self.state.now() + self.lease;
        let begun = queue::begin_handover(&self.state.db, tries, until).await?;
        Ok(tries
            .iter()
            .map(|attempt| begun.contains(&attempt.id))
            .collect())
    }
}
