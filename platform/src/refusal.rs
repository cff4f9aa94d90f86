//! The error of a handler's transaction: the database failed, or the request is refused with a
//! problem and the transaction rolled back.

use crate::problem::Problem;

/// Ends a transaction of a request: the database failed, or the request is refused. The error of
/// [`run_tx`](crate::pg::run_tx) in handlers; becomes the [`Problem`] that is answered.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The database failed.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// The state, or the caller's rights, does not allow it.
    #[error("refused: {0}")]
    Refused(Problem),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Database(error) => error.into(),
            Refusal::Refused(problem) => problem,
        }
    }
}
