//! Writes down what became of messages: those that ended while the last statement ran share the
//! next.

use std::sync::Arc;

use platform::lane::{Lane, Write};
use tokio::sync::oneshot;

use crate::shared::Shared;
use crate::store::notifications::{self, Ended};

/// Records on behalf of all senders of this process.
pub(crate) struct Recorder(Lane<Records>);

/// Why a result was not recorded.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("the database failed: {0}")]
    Database(Arc<sqlx::Error>),
    #[error("the recorder stopped")]
    Stopped,
}

impl Recorder {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self(Lane::new(Records(shared)))
    }

    /// Writes down what a try came to; `false` when a later one has begun.
    ///
    /// # Errors
    /// When it may not be written down: repeat it.
    pub(crate) async fn settle(&self, ended: Ended) -> Result<bool, RecordError> {
        let (sender, recorded) = oneshot::channel();
        self.0.add((ended, sender));
        recorded.await.unwrap_or(Err(RecordError::Stopped))
    }
}

struct Records(Arc<Shared>);

impl Write for Records {
    type Job = (Ended, oneshot::Sender<Result<bool, RecordError>>);

    async fn write(&self, jobs: Vec<Self::Job>) {
        let (ended, senders): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
        let settled = notifications::settle(&self.0.db, &ended, self.0.now()).await;
        let settled = settled.map_err(|error| RecordError::Database(Arc::new(error)));
        for (ended, sender) in ended.iter().zip(senders) {
            let result = match &settled {
                Ok(settled) => Ok(settled.contains(&ended.id)),
                Err(error) => Err(error.clone()),
            };
            // Whoever has left needs no answer.
            let _gone = sender.send(result);
        }
    }
}
