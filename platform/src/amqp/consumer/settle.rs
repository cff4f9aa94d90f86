//! Applying verdicts. A copy is stored before its original is acknowledged, so that a crash in
//! between leaves two and never none.

use std::sync::Arc;
use std::time::Duration;

use domain::clock::{Clock, SystemClock};
use lapin::Acker;
use lapin::options::{BasicAckOptions, BasicNackOptions};
use metrics::counter;
use tokio_util::sync::CancellationToken;

use super::super::broker::Broker;
use super::super::delivery::{Delivery, Verdict};
use super::super::error::{BrokerError, PublishError, within};
use super::super::link::REQUEST_LIMIT;
use super::super::publisher::Address;
use super::super::topology::{QueueNames, QueueSpec, retry_name, round_up};
use super::Settings;

/// Pause before a message that could not be copied is requeued, so that it does not spin.
const REQUEUE_PAUSE: Duration = Duration::from_secs(1);

/// Interval at which a resource alarm is checked again.
const ALARM_PAUSE: Duration = Duration::from_millis(250);
/// Below RabbitMQ's delivery acknowledgement timeout of 30 minutes.
const MAX_ALARM: Duration = Duration::from_secs(20 * 60);

/// A message and the means to acknowledge it.
pub(super) struct Received {
    pub(super) delivery: Delivery,
    acker: Acker,
}

impl From<lapin::message::Delivery> for Received {
    fn from(raw: lapin::message::Delivery) -> Self {
        Self {
            delivery: Delivery::from_lapin(&raw.properties, raw.data),
            acker: raw.acker,
        }
    }
}

#[derive(Clone)]
pub(super) struct Settler(Arc<Inner>);

struct Inner {
    broker: Broker,
    queue: String,
    names: QueueNames,
    is_transient: bool,
    is_bounded: bool,
    max_attempts: u32,
    stop: CancellationToken,
}

impl Settler {
    pub(super) fn new(
        broker: &Broker,
        queue: &QueueSpec,
        settings: Settings,
        stop: CancellationToken,
    ) -> Self {
        Self(Arc::new(Inner {
            broker: broker.clone(),
            queue: queue.name.clone(),
            names: QueueNames::new(broker.namespace(), &queue.name),
            is_transient: queue.transient,
            is_bounded: queue.max_length.is_some(),
            max_attempts: settings.max_attempts,
            stop,
        }))
    }

    /// The queue's name within the namespace.
    pub(super) fn queue(&self) -> &str {
        &self.0.queue
    }

    pub(super) async fn settle(&self, received: Received, verdict: Verdict) {
        let verdict = self.bounded(&received.delivery, verdict);
        self.count(&verdict, 1);
        if !received.acker.usable() {
            // The channel is gone, and RabbitMQ delivers the message again; a copy would double it.
            return;
        }
        if verdict != Verdict::Ack {
            self.wait_while_blocked(&received.acker).await;
        }
        match self.copy(&received.delivery, &verdict).await {
            Ok(()) => ack(&received.acker, false).await,
            Err(error) => {
                tracing::warn!(
                    queue = self.0.queue,
                    error = &error as &dyn std::error::Error,
                    "message goes back to its queue"
                );
                tokio::time::sleep(REQUEUE_PAUSE).await;
                requeue(&received.acker).await;
            }
        }
    }

    /// Holds a message during a resource alarm, while no copy can be stored: requeued again and
    /// again it would reach its delivery limit although nothing is wrong with it.
    async fn wait_while_blocked(&self, acker: &Acker) {
        let begun = tokio::time::Instant::now();
        let is_kept = || {
            self.0.broker.blocked().is_some()
                && acker.usable()
                && begun.elapsed() < MAX_ALARM
                && !self.0.stop.is_cancelled()
        };
        while is_kept() {
            tokio::time::sleep(ALARM_PAUSE).await;
        }
    }

    /// Settles a batch of one channel, with one acknowledgement if possible. Nothing delivered
    /// before it may be outstanding.
    pub(super) async fn settle_all(&self, batch: Vec<Received>, verdicts: Vec<Verdict>) {
        if verdicts.iter().all(|verdict| *verdict == Verdict::Ack) {
            self.count(&Verdict::Ack, batch.len());
            if let Some(last) = batch.last() {
                ack(&last.acker, true).await;
            }
            return;
        }
        for (received, verdict) in batch.into_iter().zip(verdicts) {
            self.settle(received, verdict).await;
        }
    }

    /// Turns a retry beyond the last attempt into a dead letter.
    fn bounded(&self, delivery: &Delivery, verdict: Verdict) -> Verdict {
        match verdict {
            Verdict::RetryAfter(_) if delivery.attempt >= self.0.max_attempts => {
                Verdict::DeadLetter(format!("given up after {} attempts", delivery.attempt))
            }
            other => other,
        }
    }

    /// Publishes the copy that the verdict asks for, if any.
    async fn copy(&self, delivery: &Delivery, verdict: &Verdict) -> Result<(), PublishError> {
        let Inner { broker, names, .. } = &*self.0;
        let (address, properties) = match verdict {
            Verdict::Ack => return Ok(()),
            _ if self.0.is_transient => {
                tracing::warn!(queue = self.0.queue, ?verdict, "transient message dropped");
                return Ok(());
            }
            Verdict::RetryAfter(delay) => {
                let delay = round_up(*delay);
                let exchange = retry_name(broker.namespace(), delay, self.0.is_bounded);
                let address = Address {
                    exchange,
                    routing_key: names.main.clone(),
                    is_transient: false,
                };
                (
                    address,
                    delivery.copy_properties(delivery.attempt.saturating_add(1)),
                )
            }
            Verdict::DeadLetter(reason) => {
                tracing::error!(
                    queue = self.0.queue,
                    name = delivery.name,
                    message_id = %delivery.message_id,
                    reason,
                    "message put aside"
                );
                let address = Address {
                    exchange: String::new(),
                    routing_key: names.dead.clone(),
                    is_transient: false,
                };
                (address, delivery.dead_properties(reason, SystemClock.now()))
            }
        };
        let body = delivery.body.clone();
        broker
            .publisher()
            .send(address, body, delivery.message_id, properties)
            .await
    }

    fn count(&self, verdict: &Verdict, messages: usize) {
        let queue = self.0.queue.clone();
        let messages = u64::try_from(messages).expect("a batch is small");
        counter!("amqp_consumed_total", "queue" => queue, "verdict" => verdict.label())
            .increment(messages);
    }
}

/// A lost acknowledgement causes a redelivery, which handlers tolerate.
async fn ack(acker: &Acker, multiple: bool) {
    let acking = acker.ack(BasicAckOptions { multiple });
    log(within(REQUEST_LIMIT, "acknowledge", acking).await);
}

async fn requeue(acker: &Acker) {
    let nacking = acker.nack(BasicNackOptions {
        multiple: false,
        requeue: true,
    });
    log(within(REQUEST_LIMIT, "requeue", nacking).await);
}

fn log(outcome: Result<bool, BrokerError>) {
    match outcome {
        Ok(true) => {}
        Ok(false) => tracing::debug!("the channel went away before the acknowledgement"),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "acknowledgement lost; the message will come again"
            );
        }
    }
}
