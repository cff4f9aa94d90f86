use std::time::Duration;

use lapin::protocol::{AMQPErrorKind, AMQPSoftError};

/// The failure of a request to the broker.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The URL can't be used.
    #[error("the RabbitMQ URL is not valid: {0}")]
    Url(String),
    /// RabbitMQ refused, or the connection was lost.
    #[error("RabbitMQ did not do what it was asked: {operation}")]
    Amqp {
        /// The request.
        operation: &'static str,
        /// The refusal, or the connection error.
        source: lapin::Error,
    },
    /// A queue exists with other arguments, which can't be changed.
    #[error(
        "queue {queue} exists with other arguments than this version declares and is used as it \
         is. To replace it, wait until it is empty (`onsale dead-letters list` empties the dead \
         ones) and run `rabbitmqctl delete_queue {queue}`: it is declared again when next used"
    )]
    Mismatch {
        /// Its full name.
        queue: String,
        /// The refusal.
        source: lapin::Error,
    },
    /// RabbitMQ takes no messages, because it is short of memory or disk.
    #[error("RabbitMQ has an alarm and takes no messages: {reason}")]
    Blocked {
        /// The resource that is short.
        reason: String,
    },
    /// RabbitMQ did not answer in time.
    #[error("RabbitMQ did not answer within {limit:?}: {operation}")]
    Timeout {
        /// The request.
        operation: &'static str,
        /// The timeout.
        limit: Duration,
    },
}

impl BrokerError {
    /// Returns whether a retry can't succeed: an invalid URL, other arguments, or refused access.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        let refused = [
            AMQPSoftError::PRECONDITIONFAILED,
            AMQPSoftError::ACCESSREFUSED,
        ];
        matches!(self, Self::Url(_)) || self.refusal().is_some_and(|word| refused.contains(word))
    }

    /// Returns whether the queue exists with other arguments.
    pub(super) fn is_mismatch(&self) -> bool {
        self.refusal() == Some(&AMQPSoftError::PRECONDITIONFAILED)
    }

    /// Turns the refusal of a declaration of `queue` into a mismatch.
    pub(super) fn of_queue(self, queue: &str) -> Self {
        match self {
            Self::Amqp { source, .. } => Self::Mismatch {
                queue: queue.to_owned(),
                source,
            },
            other => other,
        }
    }

    /// Returns whether an exchange or a queue is missing.
    pub(super) fn is_missing(&self) -> bool {
        self.refusal() == Some(&AMQPSoftError::NOTFOUND)
    }

    fn refusal(&self) -> Option<&AMQPSoftError> {
        let Self::Amqp { source, .. } = self else {
            return None;
        };
        let lapin::ErrorKind::ProtocolError(error) = source.kind() else {
            return None;
        };
        match error.kind() {
            AMQPErrorKind::Soft(word) => Some(word),
            AMQPErrorKind::Hard(_) => None,
        }
    }
}

/// The failure of a publish.
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
    /// It was sent and not confirmed: the outcome is unknown, and it may have been stored.
    #[error("the message was sent but not confirmed")]
    Unknown(#[source] BrokerError),
    /// It can't be written as JSON.
    #[error("the message can't be encoded")]
    Encode(#[source] serde_json::Error),
}

impl PublishError {
    /// Returns whether the message was certainly not stored.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        !matches!(self, Self::Unknown(_))
    }
}

/// Runs one request to the broker with a timeout.
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
