//! One consumer on one channel, from its opening to its first error.

use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use lapin::options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Channel, Consumer};
use tokio_util::sync::CancellationToken;

use super::super::broker::Broker;
use super::super::error::{BrokerError, within};
use super::super::link::{self, REQUEST_LIMIT};
use super::super::topology::{self, QueueNames, QueueSpec};
use super::Settings;
use super::settle::{Received, Settler};

/// Interval at which an idle consumer checks its channel. lapin reports a broken channel through
/// the stream, once; this covers the case that it does not.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

pub(super) struct ConsumerSession {
    pub(super) settings: Settings,
    pub(super) settler: Settler,
    channel: Channel,
    consumer: Consumer,
}

impl ConsumerSession {
    pub(super) async fn open(
        broker: &Broker,
        queue: &QueueSpec,
        settings: Settings,
        stop: &CancellationToken,
    ) -> Result<Self, BrokerError> {
        broker.declare(queue).await?;
        let channel = broker.consumer_channel().await?;
        let name = if queue.transient {
            topology::declare_transient(&channel, broker.namespace(), queue).await?
        } else {
            QueueNames::new(broker.namespace(), &queue.name).main
        };
        let qos = channel.basic_qos(settings.prefetch, BasicQosOptions::default());
        within(REQUEST_LIMIT, "set the prefetch", qos).await?;
        let consuming = channel.basic_consume(
            name.into(),
            "".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        );
        let consumer = within(REQUEST_LIMIT, "consume", consuming).await?;
        let settler = Settler::new(broker, queue, settings, stop.clone());
        Ok(Self {
            settings,
            settler,
            channel,
            consumer,
        })
    }

    /// The next message; `None` when the channel is broken or `stop` is set.
    pub(super) async fn next(&mut self, stop: &CancellationToken) -> Option<Received> {
        loop {
            let next = tokio::time::timeout(CHECK_INTERVAL, self.consumer.next());
            match stop.run_until_cancelled(next).await? {
                Ok(Some(Ok(delivery))) => return Some(Received::from(delivery)),
                Ok(Some(Err(error))) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "consumer's channel failed"
                    );
                    return None;
                }
                Ok(None) => return None,
                Err(_) if self.channel.status().connected() => {}
                Err(_) => return None,
            }
        }
    }

    /// The next message if it has arrived. An error is left for [`ConsumerSession::next`], which
    /// finds the channel broken.
    pub(super) fn next_ready(&mut self) -> Option<Received> {
        match self.consumer.next().now_or_never()?? {
            Ok(delivery) => Some(Received::from(delivery)),
            Err(_) => None,
        }
    }

    /// The last known state of the channel.
    pub(super) fn is_open(&self) -> bool {
        self.channel.status().connected()
    }

    /// Stops deliveries. Prefetched messages are redelivered to others when the channel closes.
    pub(super) async fn cancel(&self) {
        let cancelling = self
            .channel
            .basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        // On a channel that is broken there is nothing to cancel.
        let _ = within(REQUEST_LIMIT, "cancel a consumer", cancelling).await;
    }

    pub(super) async fn close(self) {
        link::close(&self.channel).await;
    }
}
