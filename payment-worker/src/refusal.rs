//! Why a request's transaction changed nothing.

use platform::problem::Problem;

/// Ends a transaction: the database failed, or the request is not allowed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("it is not allowed: {0}")]
    NotAllowed(Problem),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::NotAllowed(problem)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Database(error) => error.into(),
            Refusal::NotAllowed(problem) => problem,
        }
    }
}
