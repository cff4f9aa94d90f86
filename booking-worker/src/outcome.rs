//! Telling the admission node that waits what became of its command.

use std::time::Duration;

use bytes::Bytes;
use domain::message::{BookingOutcome, Message};
use platform::amqp::{Broker, Exchange, Outgoing};
use platform::telemetry::TraceContext;
use uuid::Uuid;

/// Nobody waits long for an outcome, and the next batch must not wait for it.
const LIMIT: Duration = Duration::from_millis(250);

/// An outcome with the node that waits for it.
#[derive(Debug)]
pub(crate) struct Reply {
    /// The node.
    pub(crate) reply_to: String,
    /// What it is told.
    pub(crate) outcome: BookingOutcome,
}

/// Sends outcomes as well as it can: a node that misses one finds the booking in the database.
pub(crate) async fn tell(broker: &Broker, replies: Vec<Reply>) {
    let messages: Vec<_> = replies.into_iter().filter_map(outgoing).collect();
    if tokio::time::timeout(LIMIT, broker.publish_all(messages))
        .await
        .is_err()
    {
        tracing::debug!("outcomes were not confirmed in time");
    }
}

fn outgoing(reply: Reply) -> Option<Outgoing> {
    if reply.reply_to.is_empty() {
        return None;
    }
    let body = serde_json::to_vec(&reply.outcome).expect("an outcome is plain data");
    Some(Outgoing {
        exchange: Exchange::Outcomes,
        routing_key: reply.reply_to,
        name: BookingOutcome::NAME.to_owned(),
        body: Bytes::from(body),
        message_id: Uuid::new_v4(),
        traceparent: Some(TraceContext::of_booking(reply.outcome.booking_id).to_traceparent()),
    })
}
