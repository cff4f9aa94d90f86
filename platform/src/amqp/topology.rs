//! Exchanges, queues and delayed redelivery.
//!
//! Delays: RabbitMQ takes expired messages only from the head of a queue, so one queue with a TTL
//! per message would make a short delay wait behind a long one. There is one queue per delay
//! instead, shared by all queues of the namespace: a message enters through a fanout exchange with
//! the name of the queue it belongs to as its routing key, and when its time is over it is
//! dead-lettered to the default exchange, which takes that routing key for the queue's name. Queues
//! with a bound share a second set. A set is declared with the first queue that uses it.

use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use lapin::options::{
    ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use uuid::Uuid;

use super::error::{BrokerError, within};
use super::link::{self, Link, REQUEST_LIMIT};

/// The retry delays; others are rounded up to the next, and the longest is the maximum.
pub const RETRY_DELAYS: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_secs(300),
];

/// Capacity of a queue for outcomes, in messages; the oldest are dropped.
const TRANSIENT_LENGTH: u32 = 10_000;
/// Concurrency of deletions.
const DELETE_CONCURRENCY: usize = 8;

/// An exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exchange {
    /// Events: topic, by message name. Persistent.
    Events,
    /// Commands: direct. Persistent.
    Commands,
    /// Replies to one waiting node: direct, not persistent. Lost when the node is gone.
    Outcomes,
}

impl Exchange {
    pub(super) const ALL: [Self; 3] = [Self::Events, Self::Commands, Self::Outcomes];

    /// The word used in names and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Commands => "commands",
            Self::Outcomes => "outcomes",
        }
    }

    /// Returns the exchange of this word; `None` for one of a later version.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|exchange| exchange.as_str() == word)
    }

    /// Returns the default exchange of a message name: one with a version is an event.
    #[must_use]
    pub fn for_name(name: &str) -> Self {
        let version = name.rsplit_once(".v").map_or("", |(_, version)| version);
        let is_event = !version.is_empty() && version.bytes().all(|byte| byte.is_ascii_digit());
        if is_event {
            Self::Events
        } else {
            Self::Commands
        }
    }

    pub(super) fn is_transient(self) -> bool {
        self == Self::Outcomes
    }

    pub(super) fn full_name(self, namespace: &str) -> String {
        format!("{namespace}.{}", self.as_str())
    }

    fn kind(self) -> ExchangeKind {
        match self {
            Self::Events => ExchangeKind::Topic,
            Self::Commands | Self::Outcomes => ExchangeKind::Direct,
        }
    }
}

/// A queue: its name, its bindings and its bounds.
#[derive(Debug, Clone)]
pub struct QueueSpec {
    /// The name within the namespace, such as `booking.requests.3`.
    pub name: String,
    /// The exchanges and routing keys that it is bound to.
    pub bindings: Vec<(Exchange, String)>,
    /// Most messages; a publish beyond it fails with
    /// [`PublishError::Full`](super::PublishError::Full). A soft bound: RabbitMQ may overshoot by
    /// what is in flight. `None`: no bound.
    pub max_length: Option<u32>,
    /// One consumer receives all messages, in order; the others stand by.
    pub single_active_consumer: bool,
    /// Most redeliveries after a consumer died, before the message is dead-lettered. Prefetched
    /// messages count as well, so it is not a small number.
    pub delivery_limit: u32,
    /// Exclusive to its consumer and deleted with it.
    pub transient: bool,
}

impl QueueSpec {
    /// A durable queue without bindings and without a bound.
    #[must_use]
    pub fn durable(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            bindings: Vec::new(),
            max_length: None,
            single_active_consumer: false,
            delivery_limit: 50,
            transient: false,
        }
    }

    /// A queue that is deleted with its consumer.
    #[must_use]
    pub fn transient(name: impl Into<String>) -> Self {
        Self {
            transient: true,
            ..Self::durable(name)
        }
    }

    /// Adds a binding.
    #[must_use]
    pub fn bind(mut self, exchange: Exchange, routing_key: impl Into<String>) -> Self {
        self.bindings.push((exchange, routing_key.into()));
        self
    }

    /// Sets the bound.
    #[must_use]
    pub fn max_length(mut self, messages: u32) -> Self {
        self.max_length = Some(messages);
        self
    }

    /// Limits the queue to one active consumer, which receives all messages in order.
    #[must_use]
    pub fn single_active_consumer(mut self) -> Self {
        self.single_active_consumer = true;
        self
    }

    pub(super) fn arguments(&self, dead: &str) -> FieldTable {
        let mut arguments = quorum();
        put_text(&mut arguments, "x-dead-letter-exchange", "");
        put_text(&mut arguments, "x-dead-letter-routing-key", dead);
        put_text(&mut arguments, "x-dead-letter-strategy", "at-least-once");
        // At-least-once dead-lettering demands it, bound or not.
        put_text(&mut arguments, "x-overflow", "reject-publish");
        put_number(
            &mut arguments,
            "x-delivery-limit",
            self.delivery_limit.into(),
        );
        if let Some(bound) = self.max_length {
            put_number(&mut arguments, "x-max-length", bound.into());
        }
        if self.single_active_consumer {
            arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
        }
        arguments
    }
}

/// The full names of a queue and the one for its dead letters.
#[derive(Debug, Clone)]
pub(super) struct QueueNames {
    pub(super) main: String,
    pub(super) dead: String,
}

impl QueueNames {
    pub(super) fn new(namespace: &str, queue: &str) -> Self {
        Self {
            main: format!("{namespace}.{queue}"),
            dead: format!("{namespace}.{queue}.dead"),
        }
    }
}

/// The exchange, and the queue behind it, that holds messages for `delay`.
///
/// Queues with a bound have retry queues of their own: RabbitMQ repeats what a full queue refused
/// only after minutes, and lets a few such messages hold up all that wait behind them.
pub(super) fn retry_name(namespace: &str, delay: Duration, is_bounded: bool) -> String {
    let kind = if is_bounded { "retry-bounded" } else { "retry" };
    format!("{namespace}.{kind}.{}ms", delay.as_millis())
}

/// The names of one set of retry queues, with their delays.
pub(super) fn retries(
    namespace: &str,
    is_bounded: bool,
) -> [(String, Duration); RETRY_DELAYS.len()] {
    RETRY_DELAYS.map(|delay| (retry_name(namespace, delay, is_bounded), delay))
}

/// The shortest of [`RETRY_DELAYS`] that is not shorter than `delay`, or the longest there is.
pub(super) fn round_up(delay: Duration) -> Duration {
    let [.., longest] = RETRY_DELAYS;
    RETRY_DELAYS
        .into_iter()
        .find(|step| *step >= delay)
        .unwrap_or(longest)
}

/// Declares what all queues of a namespace share.
pub(super) async fn declare_exchanges(
    channel: &Channel,
    namespace: &str,
) -> Result<(), BrokerError> {
    for exchange in Exchange::ALL {
        declare_exchange(channel, &exchange.full_name(namespace), exchange.kind()).await?;
    }
    Ok(())
}

/// Declares the exchange in front of a retry queue.
pub(super) async fn declare_fanout(channel: &Channel, name: &str) -> Result<(), BrokerError> {
    declare_exchange(channel, name, ExchangeKind::Fanout).await
}

/// The arguments of a queue that holds messages for `delay`.
pub(super) fn retry_arguments(delay: Duration) -> FieldTable {
    let mut arguments = quorum();
    put_text(&mut arguments, "x-dead-letter-exchange", "");
    put_text(&mut arguments, "x-dead-letter-strategy", "at-least-once");
    put_text(&mut arguments, "x-overflow", "reject-publish");
    let ttl = i64::try_from(delay.as_millis()).expect("the delays are minutes at most");
    put_number(&mut arguments, "x-message-ttl", ttl);
    arguments
}

/// The arguments of a queue for dead letters.
pub(super) fn dead_arguments() -> FieldTable {
    quorum()
}

/// Declares a queue for one consumer on `channel`. Its name is new each time: RabbitMQ may not yet
/// have noticed that the connection which owned the last one is dead.
pub(super) async fn declare_transient(
    channel: &Channel,
    namespace: &str,
    spec: &QueueSpec,
) -> Result<String, BrokerError> {
    let name = format!("{namespace}.{}.{}", spec.name, Uuid::new_v4().simple());
    let options = QueueDeclareOptions {
        exclusive: true,
        auto_delete: true,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    put_number(&mut arguments, "x-max-length", TRANSIENT_LENGTH.into());
    let declaring = channel.queue_declare(name.as_str().into(), options, arguments);
    within(REQUEST_LIMIT, "declare a queue", declaring).await?;
    for (exchange, routing_key) in &spec.bindings {
        bind(channel, &name, &exchange.full_name(namespace), routing_key).await?;
    }
    Ok(name)
}

/// Removes `queues` with their dead queues, and what they share. Those that dead-letter go before
/// those they dead-letter to.
pub(super) async fn delete(
    link: &Link,
    namespace: &str,
    queues: &std::collections::BTreeSet<String>,
) -> Result<(), BrokerError> {
    let retries: Vec<_> = [false, true]
        .into_iter()
        .flat_map(|is_bounded| retries(namespace, is_bounded))
        .map(|(name, _)| name)
        .collect();
    let names = queues.iter().map(|queue| QueueNames::new(namespace, queue));
    let (mains, deads): (Vec<_>, Vec<_>) = names.map(|names| (names.main, names.dead)).unzip();
    for stage in [retries.clone(), mains, deads] {
        delete_queues(link, stage).await?;
    }
    let channel = link.channel().await?;
    let exchanges = Exchange::ALL.map(|exchange| exchange.full_name(namespace));
    for exchange in exchanges.into_iter().chain(retries) {
        let deleting = channel.exchange_delete(exchange.into(), ExchangeDeleteOptions::default());
        within(REQUEST_LIMIT, "delete an exchange", deleting).await?;
    }
    link::close(&channel).await;
    Ok(())
}

/// Deletes all that can be deleted, and returns the first error.
async fn delete_queues(link: &Link, queues: Vec<String>) -> Result<(), BrokerError> {
    let deleting = stream::iter(queues).map(|queue| delete_queue(link, queue));
    let deleted: Vec<_> = deleting
        .buffer_unordered(DELETE_CONCURRENCY)
        .collect()
        .await;
    deleted.into_iter().collect()
}

/// Deletes a queue, after whatever was sent to it before.
///
/// RabbitMQ starts a worker beside each queue that dead-letters at least once, and before 3.13 two
/// of them that fail within 5 s end the supervisor of all: no such queue can be declared or led any
/// more until the node is restarted. A worker fails when its queue is deleted before it has looked
/// at it. A purge goes through the queue's log, behind the worker's first command: once it is
/// answered, the worker has looked.
async fn delete_queue(link: &Link, queue: String) -> Result<(), BrokerError> {
    let channel = link.channel().await?;
    let purging = channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default());
    match within(REQUEST_LIMIT, "purge a queue", purging).await {
        // The refusal has closed the channel.
        Err(error) if error.is_missing() => return Ok(()),
        purged => purged?,
    };
    let deleting = channel.queue_delete(queue.into(), QueueDeleteOptions::default());
    within(REQUEST_LIMIT, "delete a queue", deleting).await?;
    link::close(&channel).await;
    Ok(())
}

async fn declare_exchange(
    channel: &Channel,
    name: &str,
    kind: ExchangeKind,
) -> Result<(), BrokerError> {
    let options = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let declaring = channel.exchange_declare(name.into(), kind, options, FieldTable::default());
    within(REQUEST_LIMIT, "declare an exchange", declaring).await
}

/// Declares a durable queue.
///
/// # Errors
/// [`BrokerError::Mismatch`] when it exists with other arguments, which closes the channel.
pub(super) async fn declare_queue(
    channel: &Channel,
    name: &str,
    arguments: FieldTable,
) -> Result<(), BrokerError> {
    let declaring = channel.queue_declare(name.into(), QueueDeclareOptions::durable(), arguments);
    match within(REQUEST_LIMIT, "declare a queue", declaring).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_mismatch() => Err(error.of_queue(name)),
        Err(error) => Err(error),
    }
}

pub(super) async fn bind(
    channel: &Channel,
    queue: &str,
    exchange: &str,
    routing_key: &str,
) -> Result<(), BrokerError> {
    let binding = channel.queue_bind(
        queue.into(),
        exchange.into(),
        routing_key.into(),
        QueueBindOptions::default(),
        FieldTable::default(),
    );
    within(REQUEST_LIMIT, "bind a queue", binding).await
}

fn quorum() -> FieldTable {
    let mut arguments = FieldTable::default();
    put_text(&mut arguments, "x-queue-type", "quorum");
    arguments
}

fn put_text(arguments: &mut FieldTable, key: &'static str, value: &str) {
    arguments.insert(key.into(), AMQPValue::LongString(value.into()));
}

fn put_number(arguments: &mut FieldTable, key: &'static str, value: i64) {
    arguments.insert(key.into(), AMQPValue::LongLongInt(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_rounded_up_to_one_there_is_a_queue_for() {
        assert_eq!(round_up(Duration::ZERO), Duration::from_millis(250));
        assert_eq!(round_up(Duration::from_secs(1)), Duration::from_secs(1));
        assert_eq!(
            round_up(Duration::from_millis(1001)),
            Duration::from_secs(5)
        );
        assert_eq!(
            round_up(Duration::from_secs(86_400)),
            Duration::from_secs(300)
        );
    }

    #[test]
    fn a_name_with_a_version_is_an_event_and_any_other_a_command() {
        assert_eq!(Exchange::for_name("hold.placed.v1"), Exchange::Events);
        assert_eq!(Exchange::for_name("booking.place-hold"), Exchange::Commands);
        assert_eq!(Exchange::for_name("payment.void"), Exchange::Commands);
        assert_eq!(Exchange::for_name("x.v"), Exchange::Commands);
    }
}
