/// Failure of a transaction.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkError {
    /// The database refused a statement, or is unavailable.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// Concurrent writers kept taking the chosen seats.
    #[error("concurrent writers took the chosen seats, again and again")]
    Moved,
}

impl WorkError {
    /// Returns `true` if a repeat may succeed soon, because the database is away or busy.
    pub(crate) fn is_outage(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        platform::pg::is_busy(error)
    }
}
