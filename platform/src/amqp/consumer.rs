//! Supervised consumers. A handler receives a message and returns a [`Verdict`]; it never sees the
//! channel.

mod batches;
mod call;
mod session;
mod settle;
mod singles;

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::broker::Broker;
use super::delivery::{Delivery, Verdict, backoff};
use super::error::BrokerError;
use super::topology::QueueSpec;
use batches::Batches;
use session::ConsumerSession;
use singles::Singles;

/// Handles messages one by one. Several calls run concurrently, so order is lost.
pub trait Handler: Send + Sync + 'static {
    /// Handles one message. Must be idempotent: a message may be redelivered at any time, also
    /// after [`Verdict::Ack`].
    fn handle(&self, delivery: Delivery) -> impl Future<Output = Verdict> + Send;
}

/// Handles messages in batches, in order.
pub trait BatchHandler: Send + Sync + 'static {
    /// Handles the messages and returns one verdict for each, in their order. Must be idempotent.
    ///
    /// After a panic or a timeout each message is retried alone, so that a poison message does not
    /// fail its batch.
    fn handle_batch(&self, batch: Vec<Delivery>) -> impl Future<Output = Vec<Verdict>> + Send;
}

/// Flow control and limits of a consumer.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Most unacknowledged messages that RabbitMQ delivers.
    pub prefetch: u16,
    /// Most concurrent calls of a [`Handler`]; ignored for batches.
    pub concurrency: usize,
    /// Most messages in a batch; ignored by a [`Handler`].
    pub max_batch: usize,
    /// The attempt after which a message that is to be retried goes to the dead queue instead. With
    /// [`Verdict::retry`] the default is reached after more than seven hours.
    pub max_attempts: u32,
    /// Timeout of one call, which counts as a failed attempt.
    pub time_limit: Duration,
}

impl Settings {
    /// Suits most queues.
    pub const DEFAULT: Self = Self {
        prefetch: 64,
        concurrency: 16,
        max_batch: 64,
        max_attempts: 100,
        time_limit: Duration::from_secs(60),
    };
}

impl Default for Settings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Consumes a queue until `stop`, then drains: cancels, finishes the calls in flight, and returns.
/// A broken channel is rebuilt with exponential backoff.
///
/// # Errors
/// When access is refused, which a retry can't mend.
pub async fn consume<H: Handler>(
    broker: &Broker,
    stop: &CancellationToken,
    queue: &QueueSpec,
    settings: Settings,
    handler: H,
) -> anyhow::Result<()> {
    supervise(broker, stop, queue, settings, &Singles(Arc::new(handler))).await
}

/// Like [`consume`], for a [`BatchHandler`]: hands over what has arrived, up to
/// [`Settings::max_batch`], without waiting for more.
///
/// # Errors
/// As [`consume`].
pub async fn consume_batches<H: BatchHandler>(
    broker: &Broker,
    stop: &CancellationToken,
    queue: &QueueSpec,
    settings: Settings,
    handler: H,
) -> anyhow::Result<()> {
    supervise(broker, stop, queue, settings, &Batches(handler)).await
}

/// Dispatch of messages to a handler, one by one or in batches.
trait Mode {
    /// Dispatches messages until the session's channel breaks or `stop` is set.
    fn run(
        &self,
        session: ConsumerSession,
        stop: &CancellationToken,
    ) -> impl Future<Output = ()> + Send;
}

/// Opens sessions and runs them, one after another, until `stop`.
async fn supervise(
    broker: &Broker,
    stop: &CancellationToken,
    queue: &QueueSpec,
    settings: Settings,
    mode: &impl Mode,
) -> anyhow::Result<()> {
    /// Bounds the backoff, so that RabbitMQ is used soon after it is back.
    const MAX_PAUSE: Duration = Duration::from_secs(5);
    let mut failures = 0;
    while !stop.is_cancelled() {
        let Some(opened) = stop
            .run_until_cancelled(ConsumerSession::open(broker, queue, settings, stop))
            .await
        else {
            break;
        };
        match opened {
            Ok(session) => {
                failures = 0;
                let _consuming = broker.begin_consuming(queue);
                mode.run(session, stop).await;
                if !stop.is_cancelled() {
                    // It may have been deleted.
                    broker.suspect_declared();
                    tracing::warn!(queue = queue.name, "consumer lost its channel");
                }
            }
            Err(error) => {
                if error.is_missing() {
                    broker.forget_declared();
                }
                fail(queue, error)?;
            }
        }
        failures += 1;
        stop.run_until_cancelled(tokio::time::sleep(backoff(failures).min(MAX_PAUSE)))
            .await;
    }
    Ok(())
}

fn fail(queue: &QueueSpec, error: BrokerError) -> anyhow::Result<()> {
    if error.is_permanent() {
        return Err(anyhow::Error::new(error).context(format!("queue {}", queue.name)));
    }
    tracing::warn!(
        queue = queue.name,
        error = &error as &dyn std::error::Error,
        "consumer can't start; trying again"
    );
    Ok(())
}
