//! Redis: a shared connection that reconnects, with a timeout on every command.

use std::time::Duration;

use ::redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use ::redis::{
    Client, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, TlsCertificates, Value,
};
use secrecy::{ExposeSecret, SecretString};

use crate::tls;

pub use ::redis::{AsyncCommands, Script, cmd, pipe};

/// Timeout of a command, including a reconnect before it.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);
const RECONNECT_MAX_DELAY: Duration = Duration::from_millis(500);
/// Commands that may be queued for writing; more apply backpressure.
const PIPELINE_BUFFER: usize = 1_000;

/// Failure to parse `ONSALE_REDIS_URL`.
#[derive(Debug, thiserror::Error)]
#[error("ONSALE_REDIS_URL is not a Redis URL such as redis://127.0.0.1:6379/0")]
pub struct ConnectError(#[source] RedisError);

/// A shared connection. Cheap to clone; use a clone per call (`&mut ctx.redis.clone()`).
///
/// Every command is answered, or fails, within [`COMMAND_TIMEOUT`]. A failed command may still
/// have run.
#[derive(Clone, Debug)]
pub struct Redis(ConnectionManager);

/// Connects to `url` when first used, and again whenever the connection is lost.
///
/// # Errors
/// When the URL is wrong.
pub fn connect(url: &SecretString) -> Result<Redis, ConnectError> {
    let client = open(url.expose_secret()).map_err(ConnectError)?;
    let manager = ConnectionManager::new_lazy_with_config(client, manager_config());
    Ok(Redis(manager.map_err(ConnectError)?))
}

fn open(url: &str) -> RedisResult<Client> {
    // This client trusts the given certificates only, unlike the others.
    match tls::all_authorities() {
        Some(pem) if url.starts_with("rediss:") => Client::build_with_tls(
            url,
            TlsCertificates {
                client_tls: None,
                root_cert: Some(pem.into_bytes()),
            },
        ),
        _ => Client::open(url),
    }
}

fn manager_config() -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(COMMAND_TIMEOUT))
        .set_max_delay(RECONNECT_MAX_DELAY)
        .set_number_of_retries(2)
        .set_pipeline_buffer_size(PIPELINE_BUFFER)
}

impl Redis {
    /// Returns whether the server is a cluster node, which would redirect most commands. `false`
    /// when it does not answer.
    pub async fn is_cluster(&self) -> bool {
        let info: RedisResult<String> = cmd("INFO")
            .arg("cluster")
            .query_async(&mut self.clone())
            .await;
        info.is_ok_and(|info| info.contains("cluster_enabled:1"))
    }

    /// Sends a `PING`.
    ///
    /// # Errors
    /// When the server does not answer within [`COMMAND_TIMEOUT`].
    pub async fn ping(&self) -> RedisResult<()> {
        cmd("PING").query_async(&mut self.clone()).await
    }
}

impl ConnectionLike for Redis {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        bounded(self.0.req_packed_command(cmd))
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        bounded(self.0.req_packed_commands(pipeline, offset, count))
    }

    fn get_db(&self) -> i64 {
        self.0.get_db()
    }
}

/// The connection's own timeouts cover neither the wait for a reconnect nor that for the pipeline.
fn bounded<T: Send + 'static>(call: RedisFuture<'_, T>) -> RedisFuture<'_, T> {
    Box::pin(async move {
        match tokio::time::timeout(COMMAND_TIMEOUT, call).await {
            Ok(outcome) => outcome,
            Err(_) => Err((ErrorKind::Io, "timed out").into()),
        }
    })
}

/// Error codes of a server that can't serve: a replica, out of memory, loading, without its master
/// or its replicas, unable to save, busy with a script, or refusing the login.
const AWAY: [&str; 9] = [
    "READONLY",
    "OOM",
    "LOADING",
    "MASTERDOWN",
    "NOREPLICAS",
    "MISCONF",
    "BUSY",
    "NOAUTH",
    "WRONGPASS",
];

/// Returns whether the server is unavailable, too slow or unable to serve, rather than the command
/// wrong.
#[must_use]
pub fn is_unavailable(error: &RedisError) -> bool {
    error.is_io_error()
        || error.code().is_some_and(|code| AWAY.contains(&code))
        || is_of_refused_commands(error)
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_connection_refusal()
        || error.is_cluster_error()
}

/// Returns whether the commands of a transaction or a pipeline failed because the server can't
/// serve: the error's own code only says that it was aborted.
fn is_of_refused_commands(error: &RedisError) -> bool {
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| errors.iter().any(|(_, error)| AWAY.contains(&error.code())))
}
