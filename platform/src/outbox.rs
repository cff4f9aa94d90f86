//! Messages that are sent if and only if the transaction that wrote them commits.
//!
//! [`put`] stores a message beside the change that caused it; a [`relay`] sends it afterwards, at
//! least once. A message no queue takes yet stays and is tried again, so whoever puts one here
//! must have a receiver that binds a queue.

mod relay;
mod wake;

use domain::clock::{Clock, SystemClock};
use domain::message::Message;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::{NoContext, Timestamp, Uuid};

use crate::amqp::Exchange;
use crate::telemetry::TraceContext;

pub use relay::relay;
pub use wake::wake;

/// A message with the place it goes to, ready to be stored.
#[derive(Debug, Clone)]
pub struct Entry {
    exchange: Exchange,
    routing_key: String,
    name: &'static str,
    body: Value,
    trace: Option<TraceContext>,
}

impl Entry {
    /// A message for the exchange of its kind, with its name as routing key.
    ///
    /// # Errors
    /// When it can't be written as JSON.
    pub fn new<M: Message>(message: &M) -> Result<Self, sqlx::Error> {
        Self::to(Exchange::for_name(M::NAME), M::NAME, message)
    }

    /// A message for any exchange and routing key.
    ///
    /// # Errors
    /// When it can't be written as JSON.
    pub fn to<M: Message>(
        exchange: Exchange,
        routing_key: impl Into<String>,
        message: &M,
    ) -> Result<Self, sqlx::Error> {
        let body =
            serde_json::to_value(message).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
        Ok(Self {
            exchange,
            routing_key: routing_key.into(),
            name: M::NAME,
            body,
            trace: TraceContext::of_message(message),
        })
    }
}

/// Stores one message in the caller's transaction, for the relay of `owner`.
///
/// # Errors
/// What the database says.
pub async fn put<M: Message>(
    conn: &mut PgConnection,
    owner: &'static str,
    message: &M,
) -> Result<(), sqlx::Error> {
    put_all(conn, owner, vec![Entry::new(message)?]).await
}

/// Stores many messages by one statement in the caller's transaction, for the relay of `owner`.
///
/// # Errors
/// What the database says.
pub async fn put_all(
    conn: &mut PgConnection,
    owner: &'static str,
    entries: Vec<Entry>,
) -> Result<(), sqlx::Error> {
    if entries.is_empty() {
        return Ok(());
    }
    let mut ids = Vec::with_capacity(entries.len());
    let mut exchanges = Vec::with_capacity(entries.len());
    let mut routing_keys = Vec::with_capacity(entries.len());
    let mut names = Vec::with_capacity(entries.len());
    let mut bodies = Vec::with_capacity(entries.len());
    let mut traceparents = Vec::with_capacity(entries.len());
    for entry in entries {
        ids.push(new_id());
        exchanges.push(entry.exchange.as_str().to_owned());
        routing_keys.push(entry.routing_key);
        names.push(entry.name.to_owned());
        bodies.push(entry.body);
        traceparents.push(entry.trace.map(|trace| trace.to_traceparent()));
    }
    sqlx::query!(
        "INSERT INTO platform.outbox
             (id, owner, exchange, routing_key, message_name, body, traceparent)
         SELECT id, $1, exchange, routing_key, message_name, body, traceparent
         FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::text[])
             AS entry (id, exchange, routing_key, message_name, body, traceparent)",
        owner,
        &ids,
        &exchanges,
        &routing_keys,
        &names,
        &bodies,
        &traceparents as &[Option<String>],
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// In the order of creation, so that the index grows at one end.
fn new_id() -> Uuid {
    let now = SystemClock.now();
    let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
    Uuid::new_v7(Timestamp::from_unix(
        NoContext,
        seconds,
        now.timestamp_subsec_nanos(),
    ))
}
