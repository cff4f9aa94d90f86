use std::time::Duration;

/// Why the broker could not be asked, or refused.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The URL can't be used.
    #[error("the RabbitMQ URL is not valid: {0}")]
    Url(String),
    /// RabbitMQ refused, or the connection was lost.
    #[error("RabbitMQ did not do what it was asked: {operation}")]
    Amqp {
        /// What was asked.
        operation: &'static str,
        /// What it said.
        source: lapin::Error,
    },
    /// RabbitMQ did not answer in time.
    #[error("RabbitMQ did not answer within {limit:?}: {operation}")]
    Timeout {
        /// What was asked.
        operation: &'static str,
        /// How long it had.
        limit: Duration,
    },
}

impl BrokerError {
    /// Whether repeating can't help: the queue exists with other arguments, or access is refused.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
        let Self::Amqp { source, .. } = self else {
            return matches!(self, Self::Url(_));
        };
        let lapin::ErrorKind::ProtocolError(error) = source.kind() else {
            return false;
        };
        matches!(
            error.kind(),
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED | AMQPSoftError::ACCESSREFUSED)
        )
    }
}

/// Why a message may not have arrived.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The queue is at its bound. Nothing was stored.
    #[error("the queue is full")]
    Full,
    /// No queue is bound to this routing key. Nothing was stored.
    #[error("no queue takes messages for this routing key")]
    Unroutable,
    /// It was never sent. Nothing was stored.
    #[error("the message was not sent")]
    NotSent(#[source] BrokerError),
    /// It was sent, but what became of it is unknown: it may have been stored.
    #[error("the message was sent but not confirmed")]
    Unknown(#[source] BrokerError),
    /// It can't be written as JSON.
    #[error("the message can't be encoded")]
    Encode(#[source] serde_json::Error),
}

impl PublishError {
    /// Whether the message is certain not to have been stored.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

/// Runs one request to the broker under a time limit.
pub(super) async fn within<T>(
    limit: Duration,
    operation: &'static str,
    request: impl Future<Output = lapin::Result<T>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(limit, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(BrokerError::Amqp { operation, source }),
        Err(_) => Err(BrokerError::Timeout { operation, limit }),
    }
}
