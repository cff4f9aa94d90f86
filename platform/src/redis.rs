//! Redis: one connection that many share, reconnects by itself, and never hangs.

use std::time::Duration;

use ::redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use ::redis::{Client, Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, Value};
use secrecy::{ExposeSecret, SecretString};

pub use ::redis::{AsyncCommands, Script, cmd, pipe};

/// Longest wait for a command's answer, a reconnect before it included.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_millis(800);
const RECONNECT_MAX_DELAY: Duration = Duration::from_millis(500);
/// How often a start tries before it gives up, a second apart.
const START_ATTEMPTS: u32 = 10;
/// Commands that may wait to be written; more make their callers wait.
const PIPELINE_BUFFER: usize = 1_000;

/// What can go wrong when connecting.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL is not one.
    #[error("ONSALE_REDIS_URL is not a Redis URL such as redis://127.0.0.1:6379/0")]
    Url(#[source] RedisError),
    /// Nobody answers there.
    #[error("no answer from Redis at ONSALE_REDIS_URL after {START_ATTEMPTS} attempts")]
    Unreachable(#[source] RedisError),
}

/// A shared connection. Cheap to clone; use a clone per call (`&mut ctx.redis.clone()`).
///
/// Every command is answered, or fails, within [`COMMAND_TIMEOUT`]. A failed command may still
/// have run.
#[derive(Clone, Debug)]
pub struct Redis(ConnectionManager);

/// Connects to `url`. With `wait` a server that is down is tried again for some seconds, then
/// reported; without, the connection is made when first used.
///
/// # Errors
/// When the URL is wrong, or with `wait` when nobody answers.
pub async fn connect(url: &SecretString, wait: bool) -> Result<Redis, ConnectError> {
    let client = Client::open(url.expose_secret()).map_err(ConnectError::Url)?;
    let manager = ConnectionManager::new_lazy_with_config(client, manager_config())
        .map_err(ConnectError::Url)?;
    let redis = Redis(manager);
    if wait {
        redis
            .wait_until_up()
            .await
            .map_err(ConnectError::Unreachable)?;
    }
    Ok(redis)
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
    /// Whether the server answers.
    ///
    /// # Errors
    /// When it does not, within [`COMMAND_TIMEOUT`].
    pub async fn ping(&self) -> RedisResult<()> {
        cmd("PING").query_async(&mut self.clone()).await
    }

    async fn wait_until_up(&self) -> RedisResult<()> {
        let mut attempt = 1;
        loop {
            match self.ping().await {
                Err(error) if attempt < START_ATTEMPTS && is_unavailable(&error) => {
                    tracing::warn!(attempt, %error, "Redis does not answer yet");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    attempt += 1;
                }
                outcome => return outcome,
            }
        }
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

/// Whether the failure says that the server is away or too slow, rather than that the command is
/// wrong.
#[must_use]
pub fn is_unavailable(error: &RedisError) -> bool {
    error.is_io_error()
        || error.is_timeout()
        || error.is_connection_dropped()
        || error.is_connection_refusal()
        || error.is_cluster_error()
}
