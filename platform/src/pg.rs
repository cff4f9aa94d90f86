//! PostgreSQL: the pool, the schema, and transactions that repeat themselves, each with a limit on
//! our side.

mod away;
mod deadline;
mod hosts;
mod pool;
mod pooler;
mod schema;

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use metrics::{counter, histogram};
use rand::Rng;
use sqlx::{PgPool, Postgres, Transaction};

use crate::backoff::Backoff;

pub use away::{is_away, is_busy, recent_refusal};
pub(crate) use deadline::observe;
pub use deadline::{Patience, doubt, renew_connections, within};
pub use hosts::Hosts;
pub(crate) use hosts::is_read_only;
pub use pool::{connect, connect_unlimited};
pub use pooler::{PoolerError, check_sessions};
pub use schema::{
    MIGRATOR, SchemaError, check_schema, check_schema_on, migrate, needed_migration,
    newest_migration,
};

/// Most attempts of a transaction.
const MAX_ATTEMPTS: u32 = 8;
/// Backoff between two attempts.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(320));
/// Timeout of one attempt. The server's statement timeout is shorter; this one covers a server that
/// is silent.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(20);

/// Timeout of a rollback that is awaited. After it the connection rolls back by itself, or closes.
const ROLLBACK_LIMIT: Duration = Duration::from_secs(1);

/// Error of a state that a constraint or a lock should rule out: a defect, which a retry does not
/// cure.
#[derive(Debug, thiserror::Error)]
#[error("broken invariant: {0}")]
pub struct BrokenInvariant(
    /// The invariant, as a statement.
    pub &'static str,
);

impl From<BrokenInvariant> for sqlx::Error {
    fn from(error: BrokenInvariant) -> Self {
        Self::Decode(error.into())
    }
}

/// Runs `work` in a transaction, and commits if it returns `Ok`. The transaction is retried with
/// jitter, up to 8 attempts, after a deadlock or a serialization failure, or when PostgreSQL ended
/// it because this process left it idle (4 s); these are found among the error's sources. An
/// attempt that takes longer than 20 s fails, and its connection is closed.
///
/// `name` labels the metrics. `work` may borrow:
/// ```no_run
/// # async fn example(pool: &sqlx::PgPool, name: &str) -> Result<(), sqlx::Error> {
/// platform::pg::run_tx(pool, "rename", |tx| {
///     Box::pin(async move {
///         sqlx::query("UPDATE things SET name = $1").bind(name).execute(&mut **tx).await?;
///         Ok::<_, sqlx::Error>(())
///     })
/// })
/// .await
/// # }
/// ```
/// (An `async` closure would read better, but futures that run one are not `Send` yet.)
///
/// # Errors
/// The error of `work`, of the begin or of the commit.
pub async fn run_tx<'env, T, E>(
    pool: &PgPool,
    name: &'static str,
    work: impl for<'c> Fn(&'c mut Transaction<'env, Postgres>) -> BoxFuture<'c, Result<T, E>>,
) -> Result<T, E>
where
    E: From<sqlx::Error> + std::error::Error + 'static,
{
    let started = Instant::now();
    let mut attempt = 1;
    let result = loop {
        match within(ATTEMPT_LIMIT, run_once(pool, &work)).await {
            Err(error) if attempt < MAX_ATTEMPTS && asks_for_repeat(&error) => {
                counter!("pg_tx_retries_total", "tx" => name).increment(1);
                tokio::time::sleep(pause(attempt)).await;
                attempt += 1;
            }
            result => break result,
        }
    };
    let outcome = match &result {
        Ok(_) => "committed",
        Err(error) => label(error),
    };
    histogram!("pg_tx_seconds", "tx" => name, "outcome" => outcome)
        .record(started.elapsed().as_secs_f64());
    result
}

async fn run_once<'env, T, E: From<sqlx::Error>>(
    pool: &PgPool,
    work: &impl for<'c> Fn(&'c mut Transaction<'env, Postgres>) -> BoxFuture<'c, Result<T, E>>,
) -> Result<T, E> {
    let mut tx: Transaction<'env, Postgres> = pool.begin().await?;
    match work(&mut tx).await {
        Ok(value) => {
            tx.commit().await?;
            Ok(value)
        }
        Err(error) => {
            // A dropped transaction rolls back later and holds its locks until then: an immediate
            // retry, such as a group commit's of its halves, would be blocked by them.
            drop(tokio::time::timeout(ROLLBACK_LIMIT, tx.rollback()).await);
            Err(error)
        }
    }
}

/// Returns whether the sources say that the transaction was rolled back only because of when it
/// ran.
fn asks_for_repeat(error: &(dyn std::error::Error + 'static)) -> bool {
    const SERIALIZATION_FAILURE: &str = "40001";
    const DEADLOCK: &str = "40P01";
    const IDLE_IN_TRANSACTION: &str = "25P03";
    sources(error)
        .filter_map(|error| error.as_database_error()?.code())
        .any(|code| [SERIALIZATION_FAILURE, DEADLOCK, IDLE_IN_TRANSACTION].contains(&&*code))
}

/// The outcome label of a transaction that did not commit: `refused` by the rules of its caller,
/// `busy` when PostgreSQL is unavailable or overloaded, `failed` otherwise.
fn label(error: &(dyn std::error::Error + 'static)) -> &'static str {
    match sources(error).next() {
        None => "refused",
        Some(error) if is_busy(error) => "busy",
        Some(_) => "failed",
    }
}

fn sources<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a sqlx::Error> {
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<sqlx::Error>())
}

/// Backoff with full jitter, so that conflicting transactions do not collide again.
fn pause(attempt: u32) -> Duration {
    let longest = BACKOFF.after(attempt).as_micros();
    let micros = rand::rng().random_range(1_000..=u64::try_from(longest).unwrap_or(u64::MAX));
    Duration::from_micros(micros)
}
