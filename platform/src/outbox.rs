//! Transactional outbox: a message is sent if and only if the transaction that wrote it commits.
//!
//! [`put`] stores a message beside the change that caused it; a [`relay()`] publishes it
//! afterwards, at least once. A writer of many messages also [stages](Staged) them in memory and
//! publishes them itself after the commit, so that the relay reads only those left behind. An
//! unroutable message stays and is retried: each needs a receiver that binds a queue.

mod relay;
mod sender;
mod wake;

use domain::clock::{Clock, SystemClock};
use domain::message::Message;
use sqlx::PgConnection;
use uuid::{NoContext, Timestamp, Uuid};

use crate::amqp::Exchange;
use crate::telemetry::TraceContext;

use relay::LEASE_SECONDS;

pub use relay::relay;
pub use sender::Sender;
pub use wake::wake;

/// A message with the place it goes to, ready to be stored.
#[derive(Debug, Clone)]
pub struct Entry {
    exchange: Exchange,
    routing_key: String,
    name: &'static str,
    body: String,
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
            serde_json::to_string(message).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
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
/// When the database fails.
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
/// When the database fails.
pub async fn put_all(
    conn: &mut PgConnection,
    owner: &'static str,
    entries: Vec<Entry>,
) -> Result<(), sqlx::Error> {
    let messages: Vec<_> = entries.into_iter().map(StoredMessage::new).collect();
    insert(conn, owner, &messages, 0.0).await
}

/// A message with its row's id.
#[derive(Debug, Clone)]
struct StoredMessage {
    id: Uuid,
    entry: Entry,
}

impl StoredMessage {
    fn new(entry: Entry) -> Self {
        Self {
            id: new_id(),
            entry,
        }
    }
}

/// Messages that their writer stores, and publishes itself after the commit. They are leased: the
/// relay publishes them when the lease expires because the process died or RabbitMQ is unavailable.
#[derive(Debug, Clone)]
#[must_use = "until the relay finds them nobody sends these messages"]
pub struct Staged {
    owner: &'static str,
    messages: Vec<StoredMessage>,
}

impl Staged {
    /// Creates an empty set; the relay of `owner` publishes what is left.
    pub fn of(owner: &'static str) -> Self {
        Self {
            owner,
            messages: Vec::new(),
        }
    }

    /// Stores many messages by one statement in the caller's transaction. If that is rolled back,
    /// drop this.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_all(
        &mut self,
        conn: &mut PgConnection,
        entries: Vec<Entry>,
    ) -> Result<(), sqlx::Error> {
        let messages: Vec<_> = entries.into_iter().map(StoredMessage::new).collect();
        insert(conn, self.owner, &messages, LEASE_SECONDS).await?;
        self.messages.extend(messages);
        Ok(())
    }

    /// Returns whether nothing is to be published.
    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Publishes them and deletes their rows; call after the commit.
    pub async fn send(self, sender: &Sender) {
        if !self.is_empty() {
            sender.send(self).await;
        }
    }
}

async fn insert(
    conn: &mut PgConnection,
    owner: &'static str,
    messages: &[StoredMessage],
    lease_seconds: f64,
) -> Result<(), sqlx::Error> {
    if messages.is_empty() {
        return Ok(());
    }
    let mut ids = Vec::with_capacity(messages.len());
    let mut exchanges = Vec::with_capacity(messages.len());
    let mut routing_keys = Vec::with_capacity(messages.len());
    let mut names = Vec::with_capacity(messages.len());
    let mut bodies = Vec::with_capacity(messages.len());
    let mut traceparents = Vec::with_capacity(messages.len());
    for StoredMessage { id, entry } in messages {
        ids.push(*id);
        exchanges.push(entry.exchange.as_str().to_owned());
        routing_keys.push(entry.routing_key.clone());
        names.push(entry.name.to_owned());
        bodies.push(entry.body.clone());
        traceparents.push(entry.trace.map(|trace| trace.to_traceparent()));
    }
    sqlx::query!(
        "INSERT INTO platform.outbox
             (id, owner, exchange, routing_key, message_name, body, traceparent, available_at)
         SELECT id, $1, exchange, routing_key, message_name, body::jsonb, traceparent,
             now() + make_interval(secs => $8)
         FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[])
             AS entry (id, exchange, routing_key, message_name, body, traceparent)",
        owner,
        &ids,
        &exchanges,
        &routing_keys,
        &names,
        &bodies,
        &traceparents as &[Option<String>],
        lease_seconds,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Returns a time-ordered id, so that the index grows at one end.
fn new_id() -> Uuid {
    let now = SystemClock.now();
    let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
    Uuid::new_v7(Timestamp::from_unix(
        NoContext,
        seconds,
        now.timestamp_subsec_nanos(),
    ))
}
