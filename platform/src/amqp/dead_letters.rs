//! Inspection and redrive of dead letters.
//!
//! RabbitMQ counts each read of a message as a delivery, and from version 4 on removes a message
//! after its twentieth. Listing therefore moves dead letters to PostgreSQL, where they can be read
//! any number of times.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use lapin::Channel;
use lapin::message::BasicGetMessage;
use lapin::options::{BasicAckOptions, BasicGetOptions};
use sqlx::PgPool;
use uuid::Uuid;

use super::broker::Broker;
use super::delivery::{Delivery, death};
use super::error::{BrokerError, PublishError, within};
use super::link::{self, REQUEST_LIMIT};
use super::publisher::Address;
use super::topology::QueueNames;
use crate::pg::within as within_pg;
use crate::telemetry::TraceContext;

const STATEMENT_LIMIT: Duration = Duration::from_secs(10);

/// A dead letter.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The queue it was meant for, within the namespace.
    pub queue: String,
    /// Its message id.
    pub id: Uuid,
    /// Its message name.
    pub name: String,
    /// The JSON, or what was there instead.
    pub body: Bytes,
    /// The reason of its dead-lettering.
    pub reason: String,
    /// The time of its dead-lettering; `None` when unknown.
    pub died_at: Option<DateTime<Utc>>,
    /// Delivery attempts before it died.
    pub attempts: u32,
}

/// The failure of an inspection or redrive.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// The dead queue could not be read.
    #[error("the dead queue can't be read")]
    Read(#[from] BrokerError),
    /// The message could not be stored in its old queue, and stays dead.
    #[error("the message can't be sent back")]
    Send(#[from] PublishError),
    /// The database could not be asked; no dead letter is lost.
    #[error("the dead letters can't be stored or read")]
    Store(#[from] sqlx::Error),
}

/// Moves the dead letters of `queue` from RabbitMQ to `db`, and returns their number. Each is
/// stored before it is acknowledged; the duplicate that a crash leaves is ignored when it is stored
/// again.
///
/// # Errors
/// When RabbitMQ or the database can't be reached, or there is no such queue.
pub async fn collect(broker: &Broker, db: &PgPool, queue: &str) -> Result<usize, DeadLetterError> {
    let visit = Visit::begin(broker, queue).await?;
    let mut collected = 0;
    while let Some(message) = visit.next().await? {
        let trace = Delivery::from_lapin(&message.properties, message.data.clone()).trace;
        within_pg(STATEMENT_LIMIT, store(db, &read(queue, &message), trace)).await?;
        acknowledge(&message).await?;
        collected += 1;
    }
    visit.end().await;
    Ok(collected)
}

/// Returns the oldest `limit` dead letters of `queue`, after moving those in RabbitMQ to `db`.
///
/// # Errors
/// As [`collect`].
pub async fn list(
    broker: &Broker,
    db: &PgPool,
    queue: &str,
    limit: usize,
) -> Result<Vec<DeadLetter>, DeadLetterError> {
    collect(broker, db, queue).await?;
    let stored = within_pg(STATEMENT_LIMIT, stored(db, queue, limit)).await?;
    Ok(stored.into_iter().map(|stored| stored.letter).collect())
}

/// Publishes up to `limit` dead letters to `queue` again, as first attempts, and returns their
/// number. Each is confirmed before it is removed, so a crash duplicates and never loses one.
///
/// # Errors
/// As [`collect`], and when the queue is full; those published until then stay published.
pub async fn redrive(
    broker: &Broker,
    db: &PgPool,
    queue: &str,
    limit: usize,
) -> Result<usize, DeadLetterError> {
    collect(broker, db, queue).await?;
    let stored = within_pg(STATEMENT_LIMIT, stored(db, queue, limit)).await?;
    let mut moved = 0;
    for StoredLetter { row, trace, letter } in stored {
        let address = Address {
            exchange: String::new(),
            routing_key: QueueNames::new(broker.namespace(), queue).main,
            is_transient: false,
        };
        let delivery = Delivery {
            name: letter.name,
            body: letter.body,
            message_id: letter.id,
            attempt: 1,
            trace,
        };
        let properties = delivery.copy_properties(1);
        let (body, id) = (delivery.body, delivery.message_id);
        broker
            .publisher()
            .send(address, body, id, properties)
            .await?;
        within_pg(STATEMENT_LIMIT, remove(db, row)).await?;
        moved += 1;
    }
    Ok(moved)
}

/// Deletes the dead letters of `queue` with these message ids, and returns their number.
///
/// # Errors
/// As [`collect`].
pub async fn discard(
    broker: &Broker,
    db: &PgPool,
    queue: &str,
    ids: &HashSet<Uuid>,
) -> Result<usize, DeadLetterError> {
    collect(broker, db, queue).await?;
    let ids: Vec<Uuid> = ids.iter().copied().collect();
    let discarding = sqlx::query!(
        "delete from platform.dead_letters where queue = $1 and message_id = any($2)",
        queue,
        &ids,
    )
    .execute(db);
    let discarded = within_pg(STATEMENT_LIMIT, discarding).await?;
    Ok(usize::try_from(discarded.rows_affected()).unwrap_or(usize::MAX))
}

/// Counts the dead letters in `db`, by queue.
///
/// # Errors
/// When the database fails.
pub async fn count_stored(db: &PgPool) -> Result<HashMap<String, i64>, sqlx::Error> {
    let rows = sqlx::query!(
        "select queue, count(*) as \"count!\" from platform.dead_letters group by queue"
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.queue, row.count)).collect())
}

/// A dead letter as it is stored.
struct StoredLetter {
    row: Uuid,
    trace: Option<TraceContext>,
    letter: DeadLetter,
}

async fn store(
    db: &PgPool,
    letter: &DeadLetter,
    trace: Option<TraceContext>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into platform.dead_letters
             (id, queue, message_id, message_name, body, reason, died_at, attempts, traceparent)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (queue, message_id, died_at) do nothing",
        Uuid::new_v4(),
        letter.queue,
        letter.id,
        letter.name,
        letter.body.as_ref(),
        letter.reason,
        letter.died_at,
        i32::try_from(letter.attempts).unwrap_or(i32::MAX),
        trace.map(|trace| trace.to_traceparent()),
    )
    .execute(db)
    .await?;
    Ok(())
}

async fn stored(db: &PgPool, queue: &str, limit: usize) -> Result<Vec<StoredLetter>, sqlx::Error> {
    let rows = sqlx::query!(
        "select id, message_id, message_name, body, reason, died_at, attempts, traceparent
         from platform.dead_letters where queue = $1 order by stored_at, id limit $2",
        queue,
        i64::try_from(limit).unwrap_or(i64::MAX),
    )
    .fetch_all(db)
    .await?;
    let stored = rows.into_iter().map(|row| StoredLetter {
        row: row.id,
        trace: row.traceparent.as_deref().and_then(TraceContext::parse),
        letter: DeadLetter {
            queue: queue.to_owned(),
            id: row.message_id,
            name: row.message_name,
            body: Bytes::from(row.body),
            reason: row.reason,
            died_at: row.died_at,
            attempts: u32::try_from(row.attempts).unwrap_or(0),
        },
    });
    Ok(stored.collect())
}

async fn remove(db: &PgPool, row: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from platform.dead_letters where id = $1", row)
        .execute(db)
        .await?;
    Ok(())
}

/// Counts the dead letters of `queue` in RabbitMQ: those not yet moved to the database.
///
/// # Errors
/// When RabbitMQ can't be reached or there is no such queue.
pub async fn count(broker: &Broker, queue: &str) -> Result<usize, BrokerError> {
    let visit = Visit::begin(broker, queue).await?;
    let count = visit.len().await?;
    visit.end().await;
    Ok(count)
}

/// A channel of its own: what is not acknowledged is requeued when it closes.
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
