use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use metrics::counter;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::confirms::{ConfirmChannel, Publish};
use super::declared::Declared;
use super::error::{BrokerError, PublishError};
use super::link::Link;
use super::topology::Exchange;
use crate::telemetry::TraceContext;

/// Timeout of a publish, from the call to the confirm.
const PUBLISH_LIMIT: Duration = Duration::from_secs(5);
/// Channels used in turn: RabbitMQ serves each with its own process.
const CHANNELS: usize = 4;

pub(super) const TRACEPARENT: &str = "traceparent";
const PERSISTENT: u8 = 2;
const TRANSIENT: u8 = 1;

/// A message to be published.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The exchange.
    pub exchange: Exchange,
    /// The routing key.
    pub routing_key: String,
    /// The [`domain::message::Message::NAME`].
    pub name: String,
    /// The JSON.
    pub body: Bytes,
    /// The same for every copy of the same message.
    pub message_id: Uuid,
    /// The W3C trace it belongs to.
    pub traceparent: Option<String>,
}

/// A destination, by full names.
pub(super) struct Address {
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) is_transient: bool,
}

pub(super) struct Publisher {
    link: Arc<Link>,
    declared: Arc<Declared>,
    channels: [Mutex<Option<ConfirmChannel>>; CHANNELS],
    next: AtomicUsize,
}

impl Publisher {
    pub(super) fn new(link: Arc<Link>, declared: Arc<Declared>) -> Self {
        Self {
            link,
            declared,
            channels: Default::default(),
            next: AtomicUsize::new(0),
        }
    }

    pub(super) async fn publish(
        &self,
        namespace: &str,
        message: Outgoing,
    ) -> Result<(), PublishError> {
        let exchange = message.exchange;
        let address = Address {
            exchange: exchange.full_name(namespace),
            routing_key: message.routing_key.clone(),
            is_transient: exchange.is_transient(),
        };
        let id = message.message_id;
        let (body, properties) = (message.body.clone(), properties_of(message));
        let sent = self.send(address, body, id, properties).await;
        let outcome = outcome_label(&sent);
        counter!("amqp_published_total", "exchange" => exchange.as_str(), "outcome" => outcome)
            .increment(1);
        sent
    }

    /// Publishes one message and waits for its confirm.
    pub(super) async fn send(
        &self,
        address: Address,
        body: Bytes,
        message_id: Uuid,
        properties: BasicProperties,
    ) -> Result<(), PublishError> {
        let mode = if address.is_transient {
            TRANSIENT
        } else {
            PERSISTENT
        };
        let job = Publish {
            exchange: address.exchange,
            routing_key: address.routing_key,
            mandatory: !address.is_transient,
            body,
            message_id,
            properties: properties
                .with_message_id(message_id.to_string().into())
                .with_delivery_mode(mode),
        };
        if let Some(reason) = self.link.blocked() {
            return Err(PublishError::NotSent(BrokerError::Blocked { reason }));
        }
        let limit = tokio::time::Instant::now() + PUBLISH_LIMIT;
        let late = || BrokerError::Timeout {
            operation: "publish",
            limit: PUBLISH_LIMIT,
        };

        let channel = match tokio::time::timeout_at(limit, self.channel()).await {
            Ok(channel) => channel.map_err(PublishError::NotSent)?,
            Err(_) => return Err(PublishError::NotSent(late())),
        };
        let fate = match tokio::time::timeout_at(limit, channel.send(job)).await {
            Ok(Some(fate)) => fate,
            Ok(None) => return Err(PublishError::NotSent(lost())),
            Err(_) => {
                channel.discard();
                return Err(PublishError::NotSent(late()));
            }
        };
        match tokio::time::timeout_at(limit, fate).await {
            Ok(Ok(fate)) => {
                self.observe(&fate);
                fate
            }
            Ok(Err(_)) => Err(PublishError::Unknown(lost())),
            Err(_) => {
                // The confirm may never come; others on this channel would wait in vain too.
                channel.discard();
                Err(PublishError::Unknown(late()))
            }
        }
    }

    /// Marks declarations as stale when the outcome shows that some are missing.
    fn observe(&self, fate: &Result<(), PublishError>) {
        match fate {
            Err(PublishError::Unroutable) => self.declared.suspect(),
            Err(PublishError::Unknown(error)) if error.is_missing() => self.declared.forget(),
            _ => {}
        }
    }

    async fn channel(&self) -> Result<ConfirmChannel, BrokerError> {
        if self.declared.is_stale() {
            self.declared.ensure().await?;
        }
        let turn = self.next.fetch_add(1, Ordering::Relaxed) % CHANNELS;
        let mut slot = self.channels[turn].lock().await;
        if let Some(channel) = slot.as_ref().filter(|channel| channel.is_open()) {
            return Ok(channel.clone());
        }
        self.declared.ensure().await?;
        let channel = ConfirmChannel::open(&self.link).await?;
        *slot = Some(channel.clone());
        Ok(channel)
    }
}

/// Publishes many messages concurrently; the results are in the order of `messages`.
pub(super) async fn publish_all(
    publisher: &Publisher,
    namespace: &str,
    messages: Vec<Outgoing>,
) -> Vec<Result<(), PublishError>> {
    let sending: FuturesOrdered<_> = messages
        .into_iter()
        .map(|message| publisher.publish(namespace, message))
        .collect();
    sending.collect().await
}

fn lost() -> BrokerError {
    BrokerError::Amqp {
        operation: "publish",
        source: lapin::ErrorKind::InvalidConnectionState(lapin::ConnectionState::Error).into(),
    }
}

fn properties_of(message: Outgoing) -> BasicProperties {
    let traceparent = message
        .traceparent
        .or_else(|| TraceContext::current().map(|trace| trace.to_traceparent()));
    let mut headers = FieldTable::default();
    if let Some(traceparent) = traceparent {
        headers.insert(
            TRACEPARENT.into(),
            AMQPValue::LongString(traceparent.into()),
        );
    }
    BasicProperties::default()
        .with_type(message.name.into())
        .with_content_type("application/json".into())
        .with_headers(headers)
}

fn outcome_label(sent: &Result<(), PublishError>) -> &'static str {
    match sent {
        Ok(()) => "confirmed",
        Err(PublishError::Full) => "full",
        Err(PublishError::Unroutable) => "unroutable",
        Err(PublishError::NotSent(_)) => "not_sent",
        Err(PublishError::Unknown(_)) => "unknown",
        Err(PublishError::Encode(_)) => "unencodable",
    }
}
