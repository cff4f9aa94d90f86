use std::sync::Arc;

use bytes::Bytes;
use domain::message::Message;
use lapin::Channel;
use uuid::Uuid;

use super::consumed::{Consumed, Consuming};
use super::declared::Declared;
use super::error::{BrokerError, PublishError};
use super::link::{self, Link};
use super::publisher::{Outgoing, Publisher, publish_all};
use super::topology::{self, Exchange, QueueSpec};
use crate::telemetry::TraceContext;

/// RabbitMQ, as one process uses it. Cheap to clone; reconnects by itself.
#[derive(Clone)]
pub struct Broker(Arc<Inner>);

struct Inner {
    namespace: String,
    /// Apart from the consumers' connection: RabbitMQ slows a connection that publishes too fast,
    /// and acknowledgements must not wait for that.
    publishing: Arc<Link>,
    consuming: Link,
    publisher: Publisher,
    consumed: Consumed,
    declared: Arc<Declared>,
}

impl Broker {
    /// Connects, and declares what all queues of `namespace` share.
    ///
    /// # Errors
    /// When the URL is not valid, or RabbitMQ can't be reached within seconds.
    pub async fn connect(url: &str, namespace: &str) -> Result<Self, BrokerError> {
        let broker = Self::lazy(url, namespace)?;
        broker.0.declared.ensure().await?;
        Ok(broker)
    }

    /// Connects when first used, and declares then what all queues of `namespace` share.
    ///
    /// # Errors
    /// When the URL is not valid.
    pub fn lazy(url: &str, namespace: &str) -> Result<Self, BrokerError> {
        let publishing = Arc::new(Link::new(url, format!("{namespace} publisher"))?);
        let declared = Arc::new(Declared::new(namespace, publishing.clone()));
        Ok(Self(Arc::new(Inner {
            namespace: namespace.to_owned(),
            publisher: Publisher::new(publishing.clone(), declared.clone()),
            publishing,
            consuming: Link::new(url, format!("{namespace} consumers"))?,
            consumed: Consumed::default(),
            declared,
        })))
    }

    /// The prefix of every name.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// Sends a message and waits until RabbitMQ has stored it, 5 s at most.
    ///
    /// # Errors
    /// [`PublishError::Unknown`] means that it may have been stored: repeat it with the same
    /// `message_id`. After the others it certainly was not.
    pub async fn publish<M: Message>(
        &self,
        exchange: Exchange,
        routing_key: &str,
        message: &M,
        message_id: Uuid,
    ) -> Result<(), PublishError> {
        let body = serde_json::to_vec(message).map_err(PublishError::Encode)?;
        let message = Outgoing {
            exchange,
            routing_key: routing_key.to_owned(),
            name: M::NAME.to_owned(),
            body: Bytes::from(body),
            message_id,
            traceparent: TraceContext::of_message(message).map(|trace| trace.to_traceparent()),
        };
        self.0.publisher.publish(&self.0.namespace, message).await
    }

    /// Sends many messages at once, with all confirms awaited together. The results are in the
    /// order of `messages`.
    pub async fn publish_all(&self, messages: Vec<Outgoing>) -> Vec<Result<(), PublishError>> {
        publish_all(&self.0.publisher, &self.0.namespace, messages).await
    }

    /// Registers durable queues, to be declared with their dead queues and bindings once RabbitMQ
    /// is reachable, and again after it lost them.
    pub fn want(&self, queues: &[QueueSpec]) {
        for queue in queues.iter().filter(|queue| !queue.transient) {
            self.0.declared.want(queue);
        }
    }

    /// The durable queues that this process wants.
    #[must_use]
    pub fn wanted(&self) -> Vec<QueueSpec> {
        self.0.declared.wanted()
    }

    /// Declares a durable queue with its dead queue and its bindings, unless that was done. A
    /// publisher may declare its queue too, so that start-up order does not matter. One that exists
    /// with other arguments is logged and used as it is.
    ///
    /// A transient queue belongs to its consumer and is ignored.
    ///
    /// # Errors
    /// When RabbitMQ can't be reached.
    pub async fn declare(&self, queue: &QueueSpec) -> Result<(), BrokerError> {
        self.want(std::slice::from_ref(queue));
        self.0.declared.ensure().await
    }

    /// Declares what is wanted, unless that was done on the connection that stands.
    ///
    /// # Errors
    /// When RabbitMQ can't be reached.
    pub async fn ensure_declared(&self) -> Result<(), BrokerError> {
        self.0.declared.ensure().await
    }

    /// Returns the reason of RabbitMQ's resource alarm while there is one.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        self.0.publishing.blocked()
    }

    /// The queues that exist with other arguments than this version declares.
    #[must_use]
    pub fn mismatched(&self) -> Vec<String> {
        self.0.declared.mismatched().into_iter().collect()
    }

    /// Waits until this process consumes each of these queues. A service that has just started does
    /// so a moment later.
    pub async fn wait_until_consumed(&self, queues: &[QueueSpec]) {
        let names: Vec<_> = queues.iter().map(|queue| queue.name.clone()).collect();
        self.0.consumed.wait_for(&names).await;
    }

    /// Registers a consumer of `queue` until the guard is dropped.
    pub(super) fn begin_consuming<'a>(&'a self, queue: &'a QueueSpec) -> Consuming<'a> {
        self.0.consumed.begin(&queue.name)
    }

    /// Probes RabbitMQ by opening a channel, reconnecting when needed.
    ///
    /// # Errors
    /// When it does not answer within seconds.
    pub async fn ping(&self) -> Result<(), BrokerError> {
        let channel = self.0.publishing.channel().await?;
        link::close(&channel).await;
        Ok(())
    }

    /// Closes the connections. Unacknowledged messages are delivered again to others.
    pub async fn close(&self) {
        self.0.consuming.close().await;
        self.0.publishing.close().await;
    }

    /// Removes every exchange and queue of the namespace that this process knows of, and `others`.
    ///
    /// # Errors
    /// When RabbitMQ can't be reached.
    pub async fn delete_all(&self, others: &[QueueSpec]) -> Result<(), BrokerError> {
        let wanted = self.0.declared.wanted();
        let queues = wanted.iter().chain(others);
        let names = queues.map(|queue| queue.name.clone()).collect();
        topology::delete(&self.0.publishing, &self.0.namespace, &names).await
    }

    /// Marks all declarations as stale, because something was missing.
    pub(super) fn forget_declared(&self) {
        self.0.declared.forget();
    }

    /// Marks all declarations as stale, because something may be missing; at most once in 5 s.
    pub(super) fn suspect_declared(&self) {
        self.0.declared.suspect();
    }

    pub(super) fn publisher(&self) -> &Publisher {
        &self.0.publisher
    }

    /// A new channel on the consumers' connection.
    pub(super) async fn consumer_channel(&self) -> Result<Channel, BrokerError> {
        self.0.consuming.channel().await
    }

    /// A new channel for requests about queues.
    pub(super) async fn request_channel(&self) -> Result<Channel, BrokerError> {
        self.0.publishing.channel().await
    }
}
