//! PostgreSQL: the pool, the migrations and transactions that repeat themselves.

use std::str::FromStr;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use metrics::{counter, histogram};
use rand::Rng;
use sqlx::migrate::Migrator;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection as _, PgPool, Postgres, Transaction};

/// The schema. Migrations only add, until no running version needs what they take away.
pub static MIGRATOR: Migrator = sqlx::migrate!("../migrations");

/// How often a transaction is run before its error is given to the caller.
const MAX_ATTEMPTS: u32 = 8;
/// How long a request waits for a connection of the pool.
const ACQUIRE_LIMIT: Duration = Duration::from_secs(5);
/// A connection that was used so recently is not asked whether it still stands: that would be a
/// round trip for each statement of a busy process.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// Opens a pool of up to `max_connections`, after one connection has shown that the database can
/// be reached. `app_name` shows in `pg_stat_activity`.
///
/// No statement runs longer than 15 s, waits longer than 5 s for a lock, or leaves a transaction
/// idle for 30 s.
///
/// # Errors
/// When the URL is not valid or the database can't be reached.
pub async fn connect(
    url: &str,
    max_connections: u32,
    app_name: &str,
) -> Result<PgPool, sqlx::Error> {
    let options = PgConnectOptions::from_str(url)?
        .application_name(app_name)
        .options([
            ("statement_timeout", "15s"),
            ("lock_timeout", "5s"),
            ("idle_in_transaction_session_timeout", "30s"),
        ]);
    PgPoolOptions::new()
        .max_connections(max_connections)
        .acquire_timeout(ACQUIRE_LIMIT)
        .test_before_acquire(false)
        .before_acquire(|conn, meta| {
            Box::pin(async move {
                if meta.idle_for > TRUSTED_FOR {
                    conn.ping().await?;
                }
                Ok(true)
            })
        })
        .connect_with(options)
        .await
}

/// Runs `work` in a transaction, and commits if it gives `Ok`. When PostgreSQL asks for it (a
/// deadlock, or a serialization failure, found among the error's sources) everything is rolled
/// back and run again, a few times.
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
/// What `work` gave, or what the database said to the begin or the commit.
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
        match run_once(pool, &work).await {
            Err(error) if attempt < MAX_ATTEMPTS && asks_for_repeat(&error) => {
                counter!("pg_tx_retries_total", "tx" => name).increment(1);
                tokio::time::sleep(pause(attempt)).await;
                attempt += 1;
            }
            result => break result,
        }
    };
    let outcome = if result.is_ok() {
        "committed"
    } else {
        "rolled_back"
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
    let value = work(&mut tx).await?;
    tx.commit().await?;
    Ok(value)
}

/// Whether a deadlock or a serialization failure is among the causes.
fn asks_for_repeat(error: &(dyn std::error::Error + 'static)) -> bool {
    const SERIALIZATION_FAILURE: &str = "40001";
    const DEADLOCK: &str = "40P01";
    std::iter::successors(Some(error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<sqlx::Error>())
        .filter_map(|error| error.as_database_error()?.code())
        .any(|code| code == SERIALIZATION_FAILURE || code == DEADLOCK)
}

/// Random, so that transactions which met once do not meet again.
fn pause(attempt: u32) -> Duration {
    let longest = 5_u64 << attempt.min(6);
    Duration::from_millis(rand::rng().random_range(1..=longest))
}
