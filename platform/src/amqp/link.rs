//! A connection that is replaced when it is found broken.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use futures_util::StreamExt as _;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Event};
use tokio::sync::Mutex;

use super::error::{BrokerError, within};
use crate::sync::MutexExt as _;
use crate::tls;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// Timeout of one request, such as a declaration.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// A peer that is silent for two of these is considered dead.
const HEARTBEAT_SECONDS: u16 = 10;

/// Closes a channel and waits for it. Dropping closes it too, but in the background, and lapin logs
/// an error when the connection closes meanwhile.
pub(super) async fn close(channel: &Channel) {
    let _ = within(
        REQUEST_LIMIT,
        "close a channel",
        channel.close(200, "done".into()),
    )
    .await;
}

pub(super) struct Link {
    uri: AMQPUri,
    name: String,
    current: Mutex<Option<Open>>,
    /// Number of connections so far.
    count: AtomicU64,
    /// The reason of a resource alarm on this connection, if there is one.
    blocked: Blocked,
}

/// A connection, numbered from 1.
#[derive(Clone)]
struct Open {
    number: u64,
    connection: Arc<Connection>,
}

/// The reason of a resource alarm, during which RabbitMQ accepts no messages.
#[derive(Clone, Default)]
struct Blocked(Arc<StdMutex<Option<String>>>);

impl Blocked {
    fn set(&self, reason: Option<String>) {
        *self.0.lock_unpoisoned() = reason;
    }

    fn get(&self) -> Option<String> {
        self.0.lock_unpoisoned().clone()
    }
}

impl Link {
    /// Parses the URL; connects when first used.
    pub(super) fn new(url: &str, name: String) -> Result<Self, BrokerError> {
        let mut uri: AMQPUri = url.parse().map_err(BrokerError::Url)?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        Ok(Self {
            uri,
            name,
            current: Mutex::new(None),
            count: AtomicU64::new(0),
            blocked: Blocked::default(),
        })
    }

    /// Opens a channel, on a new connection when the old one is broken.
    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        let Open { number, connection } = self.open().await?;
        let opened = within(REQUEST_LIMIT, "open a channel", connection.create_channel()).await;
        if opened.is_err() && self.blocked().is_none() {
            self.discard(number).await;
        }
        opened
    }

    /// Returns the number of the live connection, opening one when there is none.
    pub(super) async fn up(&self) -> Result<u64, BrokerError> {
        self.open().await.map(|open| open.number)
    }

    /// The reason of a resource alarm on this connection, if there is one.
    pub(super) fn blocked(&self) -> Option<String> {
        self.blocked.get()
    }

    pub(super) async fn close(&self) {
        if let Some(Open { connection, .. }) = self.current.lock().await.take() {
            let _ = within(CONNECT_LIMIT, "close", connection.close(200, "bye".into())).await;
        }
    }

    async fn open(&self) -> Result<Open, BrokerError> {
        let mut current = self.current.lock().await;
        if let Some(open) = current.as_ref().filter(|open| open.stands()) {
            return Ok(open.clone());
        }
        let properties =
            ConnectionProperties::default().with_connection_name(self.name.clone().into());
        let tls = OwnedTLSConfig {
            identity: None,
            cert_chain: tls::authorities().map(str::to_owned),
        };
        let connecting = async {
            let runtime = lapin::runtime::default_runtime()?;
            Connection::connect_uri_with_config(self.uri.clone(), properties, tls, runtime).await
        };
        let connection = within(CONNECT_LIMIT, "connect", connecting).await?;
        self.blocked.set(None);
        tokio::spawn(watch(connection.events_listener(), self.blocked.clone()));
        let open = Open {
            number: self.count.fetch_add(1, Ordering::Relaxed) + 1,
            connection: Arc::new(connection),
        };
        *current = Some(open.clone());
        Ok(open)
    }

    async fn discard(&self, broken: u64) {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|open| open.number == broken) {
            *current = None;
            self.blocked.set(None);
        }
    }
}

impl Open {
    fn stands(&self) -> bool {
        self.connection.status().connected()
    }
}

/// Records alarms until the connection ends.
async fn watch(events: impl futures_util::Stream<Item = Event>, blocked: Blocked) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(reason) => {
                tracing::warn!(reason, "RabbitMQ has an alarm and takes no messages");
                blocked.set(Some(reason));
            }
            Event::ConnectionUnblocked => {
                tracing::info!("RabbitMQ takes messages again");
                blocked.set(None);
            }
            // The connection is found broken by its next use.
            Event::Error(_) => return blocked.set(None),
            _ => {}
        }
    }
}
