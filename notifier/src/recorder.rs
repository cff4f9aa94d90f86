//! Writes down what became of messages: those that ended while the last statement ran share the
//! next.

use std::sync::Arc;

use platform::lane::{Job, Lane, Limits, Unanswered, Work};

use crate::shared::Shared;
use crate::store::notifications::{self, Ended};

/// Records on behalf of all senders of this process.
pub(crate) struct Recorder(Lane<Records>);

/// Why a result was not recorded.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("the database failed: {0}")]
    Database(Arc<sqlx::Error>),
    #[error("the recorder did not answer")]
    Unanswered(#[from] Unanswered),
}

impl Recorder {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(Lane::new(Records(shared), Limits::USUAL))
    }

    /// Writes down what a try came to; `false` when a later one has begun.
    ///
    /// # Errors
    /// When it may not be written down: repeat it.
    pub(crate) async fn settle(&self, ended: Ended) -> Result<bool, RecordError> {
        self.0.ask(ended).await?
    }
}

struct Records(Arc<Shared>);

impl Work for Records {
    type Item = Ended;
    type Answer = Result<bool, RecordError>;

    async fn work(&self, jobs: Vec<Job<Self>>) {
        let (ended, askers): (Vec<_>, Vec<_>) = jobs.into_iter().map(Job::split).unzip();
        let settled = notifications::settle(&self.0.db, &ended, self.0.now()).await;
        let settled = settled.map_err(|error| RecordError::Database(Arc::new(error)));
        for (ended, asker) in ended.iter().zip(askers) {
            asker.answer(match &settled {
                Ok(settled) => Ok(settled.contains(&ended.id)),
                Err(error) => Err(error.clone()),
            });
        }
    }
}
