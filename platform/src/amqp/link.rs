//! One connection, replaced when it is found broken.

use std::sync::Arc;
use std::time::Duration;

use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties};
use tokio::sync::Mutex;

use super::error::{BrokerError, within};

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long RabbitMQ has to answer one request, such as a declaration.
pub(super) const REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// A peer that is silent for two of these is taken for dead.
const HEARTBEAT_SECONDS: u16 = 10;

/// Closes a channel that did what it was for. A dropped one closes too, but nobody waits for that,
/// and lapin logs an error when the connection closes meanwhile.
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
    current: Mutex<Option<Arc<Connection>>>,
}

impl Link {
    /// Does not connect yet.
    pub(super) fn new(url: &str, name: String) -> Result<Self, BrokerError> {
        let mut uri: AMQPUri = url.parse().map_err(BrokerError::Url)?;
        uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
        Ok(Self {
            uri,
            name,
            current: Mutex::new(None),
        })
    }

    /// A new channel, on a new connection when the old one is broken.
    pub(super) async fn channel(&self) -> Result<Channel, BrokerError> {
        let connection = self.connection().await?;
        let opened = within(REQUEST_LIMIT, "open a channel", connection.create_channel()).await;
        if opened.is_err() {
            self.discard(&connection).await;
        }
        opened
    }

    pub(super) async fn close(&self) {
        if let Some(connection) = self.current.lock().await.take() {
            let _ = within(CONNECT_LIMIT, "close", connection.close(200, "bye".into())).await;
        }
    }

    /// Whether the connection stands, as far as known.
    pub(super) async fn is_connected(&self) -> bool {
        self.current
            .lock()
            .await
            .as_ref()
            .is_some_and(|open| open.status().connected())
    }

    async fn connection(&self) -> Result<Arc<Connection>, BrokerError> {
        let mut current = self.current.lock().await;
        if let Some(connection) = current.as_ref().filter(|open| open.status().connected()) {
            return Ok(connection.clone());
        }
        let properties =
            ConnectionProperties::default().with_connection_name(self.name.clone().into());
        let connecting = Connection::connect_uri(self.uri.clone(), properties);
        let connection = Arc::new(within(CONNECT_LIMIT, "connect", connecting).await?);
        *current = Some(connection.clone());
        Ok(connection)
    }

    async fn discard(&self, broken: &Arc<Connection>) {
        let mut current = self.current.lock().await;
        if current
            .as_ref()
            .is_some_and(|open| Arc::ptr_eq(open, broken))
        {
            *current = None;
        }
    }
}
