//! Looking through the messages that were put aside, and bringing them back.

use std::collections::HashSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use lapin::Channel;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use uuid::Uuid;

use super::broker::Broker;
use super::delivery::{Delivery, death};
use super::error::{BrokerError, PublishError, within};
use super::link::{self, REQUEST_LIMIT};
use super::publisher::Address;
use super::topology::QueueNames;

/// A message that was put aside.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The queue it was meant for, within the namespace.
    pub queue: String,
    /// Its message id.
    pub id: Uuid,
    /// What it is.
    pub name: String,
    /// The JSON, or what was there instead.
    pub body: Bytes,
    /// Why it was put aside.
    pub reason: String,
    /// When; `None` when nobody wrote it down.
    pub died_at: Option<DateTime<Utc>>,
    /// How often it was tried.
    pub attempts: u32,
}

/// Why a dead letter could not be sent back.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    /// The dead queue could not be read.
    #[error("the dead queue can't be read")]
    Read(#[from] BrokerError),
    /// The message could not be stored in its old queue, and stays dead.
    #[error("the message can't be sent back")]
    Send(#[from] PublishError),
}

/// The first `limit` dead letters of `queue`. They stay where they are; while they are read, they
/// are hidden from others.
///
/// # Errors
/// When RabbitMQ can't be reached or there is no such queue.
pub async fn list(
    broker: &Broker,
    queue: &str,
    limit: usize,
) -> Result<Vec<DeadLetter>, BrokerError> {
    let visit = Visit::begin(broker, queue).await?;
    let mut letters = Vec::new();
    while letters.len() < limit
        && let Some(message) = visit.next().await?
    {
        letters.push(read(queue, &message));
    }
    // Closing gives back what was not acknowledged.
    visit.end().await;
    Ok(letters)
}

/// Sends up to `limit` dead letters back to `queue` as if they were new, and tells how many. Each
/// is stored there before it leaves the dead queue, so a crash leaves two and never none.
///
/// # Errors
/// When RabbitMQ can't be reached, there is no such queue, or it is full; what was sent back until
/// then stays sent back.
pub async fn redrive(broker: &Broker, queue: &str, limit: usize) -> Result<usize, RedriveError> {
    let visit = Visit::begin(broker, queue).await?;
    // What is put aside again meanwhile must not be sent back twice.
    let present = visit.len().await?;
    let mut moved = 0;
    while moved < limit.min(present)
        && let Some(message) = visit.next().await?
    {
        let delivery = Delivery::from_lapin(&message.properties, message.data.clone());
        let address = Address {
            exchange: String::new(),
            routing_key: visit.names.main.clone(),
            is_transient: false,
        };
        let properties = delivery.copy_properties(1);
        broker
            .publisher()
            .send(
                address,
                delivery.body.clone(),
                delivery.message_id,
                properties,
            )
            .await?;
        acknowledge(&message).await?;
        moved += 1;
    }
    visit.end().await;
    Ok(moved)
}

/// Removes the dead letters of `queue` with these ids for good, and tells how many there were.
///
/// # Errors
/// When RabbitMQ can't be reached or there is no such queue.
pub async fn discard(
    broker: &Broker,
    queue: &str,
    ids: &HashSet<Uuid>,
) -> Result<usize, BrokerError> {
    let visit = Visit::begin(broker, queue).await?;
    let mut discarded = 0;
    while let Some(message) = visit.next().await? {
        if ids.contains(&read(queue, &message).id) {
            acknowledge(&message).await?;
            discarded += 1;
        }
    }
    visit.end().await;
    Ok(discarded)
}

/// How many dead letters `queue` has.
///
/// # Errors
/// When RabbitMQ can't be reached or there is no such queue.
pub async fn count(broker: &Broker, queue: &str) -> Result<usize, BrokerError> {
    let visit = Visit::begin(broker, queue).await?;
    let count = visit.len().await?;
    visit.end().await;
    Ok(count)
}

/// A channel of its own: whatever is taken and not acknowledged goes back when it closes.
struct Visit {
    channel: Channel,
    names: QueueNames,
}

impl Visit {
    async fn begin(broker: &Broker, queue: &str) -> Result<Self, BrokerError> {
        let channel = broker.request_channel().await?;
        Ok(Self {
            channel,
            names: QueueNames::new(broker.namespace(), queue),
        })
    }

    async fn len(&self) -> Result<usize, BrokerError> {
        let options = lapin::options::QueueDeclareOptions {
            passive: true,
            ..lapin::options::QueueDeclareOptions::default()
        };
        let name = self.names.dead.as_str().into();
        let asking = self
            .channel
            .queue_declare(name, options, lapin::types::FieldTable::default());
        let queue = within(REQUEST_LIMIT, "look at a dead queue", asking).await?;
        Ok(usize::try_from(queue.message_count()).expect("a usize has 32 bits or more"))
    }

    async fn next(&self) -> Result<Option<BasicGetMessage>, BrokerError> {
        let name = self.names.dead.as_str().into();
        let getting = self.channel.basic_get(name, BasicGetOptions::default());
        within(REQUEST_LIMIT, "take a dead letter", getting).await
    }

    async fn end(self) {
        link::close(&self.channel).await;
    }
}

async fn acknowledge(message: &BasicGetMessage) -> Result<(), BrokerError> {
    let acking = message.acker.ack(BasicAckOptions::default());
    within(REQUEST_LIMIT, "acknowledge", acking)
        .await
        .map(|_| ())
}

fn read(queue: &str, message: &BasicGetMessage) -> DeadLetter {
    let (reason, died_at) = death(&message.properties);
    let attempts = Delivery::tried(&message.properties);
    let delivery = Delivery::from_lapin(&message.properties, message.data.clone());
    DeadLetter {
        queue: queue.to_owned(),
        id: delivery.message_id,
        name: delivery.name,
        body: delivery.body,
        reason,
        died_at,
        attempts,
    }
}
