//! The pool of connections. Limits of the session are set by `SET` after connecting, not as
//! start-up parameters, which a pooler in between would refuse or swallow.

use std::time::{Duration, Instant};

use sqlx::pool::PoolConnectionMetadata;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, PgConnection, PgPool};

use super::deadline;
use super::hosts::Hosts;

/// Timeout of acquiring a connection.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(5);
/// A connection used so recently is not pinged: that would cost a busy process a round trip per
/// statement.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// Timeout of a ping, after which a connection counts as silent.
const PING_LIMIT: Duration = Duration::from_millis(500);
/// Timeout of the session's settings after connecting.
const SETTINGS_LIMIT: Duration = Duration::from_secs(5);

/// Session limits of a service. A transaction is rolled back sooner after its client fell silent
/// than others stop waiting for its locks: a node that is suspended, or cut off, holds a sale up
/// for seconds. Whoever waits behind several of its transactions may still give up. (A dead client
/// is detected within some 20 s.)
const SERVICE_LIMITS: &str = "\
    set statement_timeout = '15s'; \
    set lock_timeout = '5s'; \
    set idle_in_transaction_session_timeout = '4s'; \
    set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 3; set tcp_keepalives_count = 3";
/// Session limits of a command: it may run for hours, but must not wait long for a lock, since all
/// others would queue behind it.
const COMMAND_LIMITS: &str = "\
    set statement_timeout = 0; \
    set lock_timeout = '5s'; \
    set idle_in_transaction_session_timeout = 0; \
    set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 3; set tcp_keepalives_count = 3";

/// Opens a pool of up to `max_connections`, after one connection has shown that the database can
/// be reached. `app_name` shows in `pg_stat_activity`. Of several hosts in the URL the first that
/// takes writes is used.
///
/// No statement runs longer than 15 s, waits longer than 5 s for a lock, or leaves a transaction
/// idle for 4 s. A connection that does not answer is closed within a second of its next use.
///
/// # Errors
/// When the URL is not valid or the database can't be reached.
pub async fn connect(
    url: &str,
    max_connections: u32,
    app_name: &str,
) -> Result<PgPool, sqlx::Error> {
    open(url, max_connections, app_name, SERVICE_LIMITS).await
}

/// [`connect`] for migrations and audits, whose statements may run as long as they need. A lock is
/// waited for 5 s.
///
/// # Errors
/// As [`connect`].
pub async fn connect_unlimited(
    url: &str,
    max_connections: u32,
    app_name: &str,
) -> Result<PgPool, sqlx::Error> {
    open(url, max_connections, app_name, COMMAND_LIMITS).await
}

async fn open(
    url: &str,
    max_connections: u32,
    app_name: &str,
    limits: &'static str,
) -> Result<PgPool, sqlx::Error> {
    let hosts = Hosts::parse(url, app_name)?;
    let options = hosts.find_primary(ACQUIRE_LIMIT).await?;
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_LIMIT)
        .test_before_acquire(false)
        .after_connect(move |conn, _| Box::pin(set_limits(conn, limits)))
        .before_acquire(|conn, meta| Box::pin(is_usable(conn, meta)))
        .after_release(|conn, _| Box::pin(is_alive(conn)))
        .connect_with(options)
        .await
}

async fn set_limits(conn: &mut PgConnection, limits: &'static str) -> Result<(), sqlx::Error> {
    let setting = sqlx::raw_sql(limits).execute(conn);
    deadline::within(SETTINGS_LIMIT, setting).await.map(drop)
}

async fn is_usable(
    conn: &mut PgConnection,
    meta: PoolConnectionMetadata,
) -> Result<bool, sqlx::Error> {
    let now = Instant::now();
    let before = |age| now.checked_sub(age).unwrap_or(now);
    if deadline::is_replaced(before(meta.age)) {
        return Ok(false);
    }
    if meta.idle_for > TRUSTED_FOR || deadline::is_doubted(before(meta.idle_for)) {
        return is_alive(conn).await;
    }
    Ok(true)
}

/// Pings. When one connection is silent, those as old as it are renewed.
///
/// Also called when a connection is released, since the pool's own ping has no timeout.
async fn is_alive(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    if let Ok(answer) = tokio::time::timeout(PING_LIMIT, conn.ping()).await {
        return answer.map(|()| true);
    }
    deadline::renew(PING_LIMIT);
    let silent = std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        format!("a connection did not answer within {PING_LIMIT:?}"),
    );
    Err(silent.into())
}
