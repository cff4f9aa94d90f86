//! Records everything the booking worker publishes.

use std::sync::{Arc, Mutex};

use domain::BookingId;
use domain::booking::CancelRefusal;
use domain::message::{BookingOutcomes, Message, Outcome};
use platform::amqp::{
    Broker, Delivery, Exchange, Handler, PublishError, QueueSpec, Settings, Verdict, consume,
};
use platform::service::Context;
use platform::sync::MutexExt as _;
use platform::testing::eventually;
use uuid::Uuid;

use crate::shop::LIMIT;

/// The node that outcomes are addressed to.
pub(crate) const NODE: &str = "witness";
/// Channels that a broker publishes on in turn.
const LANES: usize = 4;

#[derive(Clone, Default)]
pub(crate) struct Witness(Arc<Mutex<Vec<Delivery>>>);

async fn probe(broker: &Broker) -> Result<(), PublishError> {
    let probe = BookingOutcomes {
        outcomes: Vec::new(),
    };
    broker
        .publish(Exchange::Outcomes, NODE, &probe, Uuid::new_v4())
        .await
}

/// Opens the channels that the broker publishes on. A worker publishes an outcome only once, within
/// 250 ms, in which a busy machine may not open one.
pub(crate) async fn open_lanes(broker: &Broker) {
    for _ in 0..LANES {
        probe(broker).await.unwrap();
    }
}

impl Handler for Witness {
    /// A copy of a message is dropped: the outbox publishes at least once.
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let mut heard = self.0.lock_unpoisoned();
        if heard
            .iter()
            .all(|known| known.message_id != delivery.message_id)
        {
            heard.push(delivery);
        }
        Verdict::Ack
    }
}

impl Witness {
    /// Records from now on.
    pub(crate) async fn listen(ctx: &Context) -> Self {
        let witness = Self::default();
        let queue = QueueSpec::transient("witness")
            .bind(Exchange::Events, "#")
            .bind(Exchange::Commands, "payment.void")
            .bind(Exchange::Outcomes, NODE);
        let (broker, stop) = (ctx.broker.clone(), ctx.shutdown.soft().clone());
        let handler = witness.clone();
        let in_order = Settings {
            concurrency: 1,
            ..Settings::default()
        };
        ctx.spawn("witness", async move {
            consume(&broker, &stop, &queue, in_order, handler).await
        });
        eventually(LIMIT, async || {
            let _ = probe(&ctx.broker).await;
            !witness.heard::<BookingOutcomes>().is_empty()
        })
        .await;
        open_lanes(&ctx.broker).await;
        witness
    }

    /// All messages of one kind, in order of arrival.
    pub(crate) fn heard<M: Message>(&self) -> Vec<M> {
        let heard = self.0.lock_unpoisoned();
        let of_kind = heard.iter().filter(|delivery| delivery.name == M::NAME);
        of_kind.map(|delivery| delivery.parse().unwrap()).collect()
    }

    /// The reasons for which a cancellation of this booking was refused, in order.
    pub(crate) fn refusals(&self, id: BookingId) -> Vec<CancelRefusal> {
        let heard = self.heard::<BookingOutcomes>().into_iter();
        heard
            .flat_map(|heard| heard.outcomes)
            .filter(|heard| heard.booking_id == id)
            .filter_map(|heard| heard.why)
            .collect()
    }

    /// The outcomes of this booking, in order of arrival.
    pub(crate) fn outcomes(&self, id: BookingId) -> Vec<Outcome> {
        let heard = self.heard::<BookingOutcomes>().into_iter();
        heard
            .flat_map(|heard| heard.outcomes)
            .filter(|heard| heard.booking_id == id)
            .map(|heard| heard.outcome)
            .collect()
    }
}
