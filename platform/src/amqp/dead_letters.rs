//! Looking through the messages that were put aside, and bringing them back.
//!
//! RabbitMQ counts a look at a message as a delivery, and from version 4 on removes a message after
//! its twentieth. Looking therefore moves dead letters to PostgreSQL, where they can be read any
//! number of times.

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

/// Why dead letters could not be looked through or sent back.
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

/// Moves the dead letters of `queue` from RabbitMQ to `db`, and tells how many there were. Each is
/// stored before it is acknowledged, so a crash leaves two copies, which count as one.
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

/// The oldest `limit` dead letters of `queue`, which are moved to `db` if they are not there.
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

/// Sends up to `limit` dead letters back to `queue` as if they were new, and tells how many. Each
/// is stored there before it leaves the dead ones, so a crash leaves two and never none.
///
/// # Errors
/// As [`collect`], and when the queue is full; what was sent back until then stays sent back.
pub async fn redrive(
    broker: &Broker,
    db: &PgPool,
    queue: &str,
    limit: usize,
) -> Result<usize, DeadLetterError> {
    collect(broker, db, queue).await?;
    let stored = within_pg(STATEMENT_LIMIT, stored(db, queue, limit)).await?;
    let mut moved = 0;
    for Stored { row, trace, letter } in stored {
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

/// Removes the dead letters of `queue` with these ids for good, and tells how many there were.
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

/// How many dead letters of each queue were moved to `db`.
///
/// # Errors
/// What the database says.
pub async fn count_stored(db: &PgPool) -> Result<HashMap<String, i64>, sqlx::Error> {
    let rows = sqlx::query!(
        "select queue, count(*) as \"count!\" from platform.dead_letters group by queue"
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.queue, row.count)).collect())
}

/// A dead letter as it is stored.
struct Stored {
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

async fn stored(db: &PgPool, queue: &str, limit: usize) -> Result<Vec<Stored>, sqlx::Error> {
    let rows = sqlx::query!(
        "select id, message_id, message_name, body, reason, died_at, attempts, traceparent
         from platform.dead_letters where queue = $1 order by stored_at, id limit $2",
        queue,
        i64::try_from(limit).unwrap_or(i64::MAX),
    )
    .fetch_all(db)
    .await?;
    let stored = rows.into_iter().map(|row| Stored {
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

/// How many dead letters of `queue` RabbitMQ has: those that nobody has looked at.
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
