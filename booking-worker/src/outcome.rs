//! Replies to the admission nodes that wait for the outcome of a command.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use domain::message::{BookingOutcome, BookingOutcomes, Message};
use platform::amqp::{Broker, Exchange, Outgoing};
use uuid::Uuid;

/// Time limit of publishing: nobody waits long for an outcome.
const LIMIT: Duration = Duration::from_millis(250);

/// An outcome for the node that waits for it.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The node; empty when none waits.
    pub(crate) reply_to: String,
    pub(crate) outcome: BookingOutcome,
}

/// Publishes outcomes, best effort, one message per node: a node that misses it reads the bookings
/// from the database. Does not delay the next batch.
pub(crate) fn publish(broker: &Broker, replies: Vec<Reply>) {
    let mut by_node: BTreeMap<String, Vec<BookingOutcome>> = BTreeMap::new();
    for Reply { reply_to, outcome } in replies {
        if !reply_to.is_empty() {
            by_node.entry(reply_to).or_default().push(outcome);
        }
    }
    let messages: Vec<_> = by_node.into_iter().map(outgoing).collect();
    let broker = broker.clone();
    tokio::spawn(async move {
        let sending = tokio::time::timeout(LIMIT, broker.publish_all(messages));
        if sending.await.is_err() {
            tracing::debug!("outcomes were not confirmed in time");
        }
    });
}

fn outgoing((node, outcomes): (String, Vec<BookingOutcome>)) -> Outgoing {
    let body = serde_json::to_vec(&BookingOutcomes { outcomes });
    Outgoing {
        exchange: Exchange::Outcomes,
        routing_key: node,
        name: BookingOutcomes::NAME.to_owned(),
        body: Bytes::from(body.expect("outcomes are plain data")),
        message_id: Uuid::new_v4(),
        traceparent: None,
    }
}
