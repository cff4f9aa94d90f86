//! Refuses a pooler that hands one session of the server to several clients in turn: prepared
//! statements and the limits of a session would be another client's.

use sqlx::postgres::PgRow;
use sqlx::{Executor as _, PgConnection, PgPool, Row as _};

/// The failure of the check.
#[derive(Debug, thiserror::Error)]
pub enum PoolerError {
    /// The server's sessions are shared.
    #[error(
        "ONSALE_DATABASE_URL leads through a pooler that shares sessions between clients, such as \
         PgBouncer with pool_mode=transaction: use pool_mode=session, or connect directly"
    )]
    SharedSessions,
    /// The check could not run.
    #[error("the database can't be asked for its sessions")]
    Unasked(#[from] sqlx::Error),
}

/// Refuses shared sessions: while one connection is idle and another is in a transaction, each must
/// have a session of its own.
///
/// # Errors
/// [`PoolerError`].
pub async fn check_sessions(pool: &PgPool) -> Result<(), PoolerError> {
    let (mut idle, mut busy) = (pool.acquire().await?, pool.acquire().await?);
    let first = session(&mut idle).await?;
    busy.execute("begin").await?;
    let other = session(&mut busy).await?;
    let again = session(&mut idle).await?;
    busy.execute("rollback").await?;
    if first == other || first != again {
        return Err(PoolerError::SharedSessions);
    }
    Ok(())
}

/// The id of the server's session, asked without a prepared statement.
async fn session(conn: &mut PgConnection) -> Result<i32, sqlx::Error> {
    let row: PgRow = sqlx::raw_sql("select pg_backend_pid()")
        .fetch_one(conn)
        .await?;
    row.try_get(0)
}
