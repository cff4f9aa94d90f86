//! Declaring queues on a broker that other tests keep busy.

use std::time::Duration;

use super::eventually;
use crate::amqp::{Broker, QueueSpec};

/// A busy machine may take longer than the limit of one declaration.
const LIMIT: Duration = Duration::from_secs(60);

impl Broker {
    /// Declares a queue, again until RabbitMQ has answered in time: for the set-up of tests.
    ///
    /// # Panics
    /// When there is no answer within a minute.
    pub async fn declare_patiently(&self, queue: &QueueSpec) {
        eventually(LIMIT, async || self.declare(queue).await.is_ok()).await;
    }
}
