//! Consumers. A handler gets a message and answers with a [`Verdict`]; it never sees the channel.

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
use session::Session;
use singles::Singles;

/// Takes one message at a time. Several run at once, so order is not kept.
pub trait Handler: Send + Sync + 'static {
    /// Does what the message asks. May be called again with the same message at any time, also
    /// after it has answered [`Verdict::Ack`].
    fn handle(&self, delivery: Delivery) -> impl Future<Output = Verdict> + Send;
}

/// Takes several messages at once, in order.
pub trait BatchHandler: Send + Sync + 'static {
    /// Does what the messages ask, and answers with one verdict for each, in their order. May be
    /// called again with the same messages at any time.
    ///
    /// When it panics or exceeds its time, it is called again with each message alone, so that
    /// one bad message does not take others with it.
    fn handle_batch(&self, batch: Vec<Delivery>) -> impl Future<Output = Vec<Verdict>> + Send;
}

/// How messages are taken.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How many messages RabbitMQ sends ahead of their acknowledgement.
    pub prefetch: u16,
    /// How many handlers run at once; of no meaning for batches.
    pub concurrency: usize,
    /// How many messages a batch has at most; of no meaning for single ones.
    pub max_batch: usize,
    /// The attempt after which a message that is to be retried goes to the dead queue instead. With
    /// [`Verdict::retry`] the default is reached after more than seven hours.
    pub max_attempts: u32,
    /// How long a handler may take; longer counts as a failed attempt.
    pub time_limit: Duration,
}

impl Settings {
    /// What suits most queues.
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

/// Consumes a queue until `stop`: then takes no more messages, finishes those it has begun, and
/// returns. Whatever breaks is rebuilt, with growing pauses.
///
/// # Errors
/// When the queue can never be consumed because RabbitMQ has it with other arguments or refuses
/// access.
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

/// How messages are handed to a handler.
trait Mode {
    /// Hands messages over until the session's channel breaks or `stop` is set.
    fn run(&self, session: Session, stop: &CancellationToken) -> impl Future<Output = ()> + Send;
}

/// Opens sessions and runs them, one after the other, until `stop`.
async fn supervise(
    broker: &Broker,
    stop: &CancellationToken,
    queue: &QueueSpec,
    settings: Settings,
    mode: &impl Mode,
) -> anyhow::Result<()> {
    /// So that RabbitMQ is found soon after it is back.
    const LONGEST_PAUSE: Duration = Duration::from_secs(5);
    let mut failures = 0;
    while !stop.is_cancelled() {
        let Some(opened) = stop
            .run_until_cancelled(Session::open(broker, queue, settings, stop))
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
        stop.run_until_cancelled(tokio::time::sleep(backoff(failures).min(LONGEST_PAUSE)))
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
