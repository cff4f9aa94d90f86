//! Change tracking by transaction id: incremental reads that miss nothing, however late a change
//! commits.

use sqlx::PgPool;

/// A read position: the oldest transaction in progress at the time of the read. Everything before
/// it was seen; everything from it on may not have been, and is read again.
#[derive(Debug, Clone)]
pub(crate) struct ReadPosition {
    oldest: String,
    timeline: String,
}

impl ReadPosition {
    /// Takes a position. Statements after this see everything that committed before it.
    pub(crate) async fn begin(db: &PgPool) -> Result<Self, sqlx::Error> {
        sqlx::query_as!(
            Self,
            r#"select pg_snapshot_xmin(pg_current_snapshot())::text as "oldest!",
                      substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) as "timeline!""#
        )
        .fetch_one(db)
        .await
    }

    /// Returns the first transaction id, in the text form of `xid8`, that a read at `since` may
    /// have missed. After a failover that is zero: ids of transactions lost with the old primary
    /// are used again.
    pub(crate) fn first_unseen<'a>(&self, since: Option<&'a Self>) -> &'a str {
        since
            .filter(|since| since.shares_history_with(self))
            .map_or("0", |since| &since.oldest)
    }

    /// Returns whether both positions are on the same timeline, without a failover in between.
    pub(crate) fn shares_history_with(&self, other: &Self) -> bool {
        self.timeline == other.timeline
    }
}
