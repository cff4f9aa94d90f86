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
        platform::pg::is_busy(error)
    }
}
