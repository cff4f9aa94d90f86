use sqlx::error::DatabaseError;

/// Why commands were not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkError {
    /// The database refused, or could not be asked.
    #[error("the database did not do it")]
    Database(#[from] sqlx::Error),
    /// Others kept taking what was chosen.
    #[error("others took what was chosen, again and again")]
    Moved,
}

impl WorkError {
    /// Whether the same may succeed soon, because the fault is not in the commands.
    pub(crate) fn is_outage(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::WorkerCrashed => true,
            sqlx::Error::Database(error) => is_passing(error.as_ref()),
            _ => false,
        }
    }
}

/// Connection lost, resources short, shutting down or starting, a lock not free, a timeout.
fn is_passing(error: &dyn DatabaseError) -> bool {
    error.code().is_some_and(|code| {
        ["08", "40", "53", "57", "55P03"]
            .iter()
            .any(|class| code.starts_with(class))
    })
}
