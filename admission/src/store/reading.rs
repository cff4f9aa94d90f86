//! Reading what has changed, by transaction: exact, however late a change commits.

use sqlx::PgPool;

/// The moment of a reading: the oldest transaction that ran then. All before it were seen; those
/// from it on may not have been, and are read again.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    oldest: String,
    timeline: String,
}

impl Reading {
    /// Begins a reading. What is read after this sees whatever committed before.
    pub(crate) async fn begin(db: &PgPool) -> Result<Self, sqlx::Error> {
        sqlx::query_as!(
            Self,
            r#"select pg_snapshot_xmin(pg_current_snapshot())::text as "oldest!",
                      substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) as "timeline!""#
        )
        .fetch_one(db)
        .await
    }

    /// The first transaction, as `xid8` is written, whose changes the reading `since` may not
    /// have seen. After a failover every change counts as unseen: transactions that were lost with
    /// the old primary were counted, too.
    pub(crate) fn first_unseen<'a>(&self, since: Option<&'a Self>) -> &'a str {
        since
            .filter(|since| since.is_of_the_history_of(self))
            .map_or("0", |since| &since.oldest)
    }

    /// Whether no failover is between the two.
    pub(crate) fn is_of_the_history_of(&self, other: &Self) -> bool {
        self.timeline == other.timeline
    }
}
