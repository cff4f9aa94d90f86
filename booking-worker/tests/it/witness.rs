//! Records everything the booking worker publishes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::BookingId;
use domain::booking::CancelRefusal;
use domain::message::{BookingOutcomes, Message, Outcome};
use platform::amqp::{Delivery, Exchange, Handler, QueueSpec, Settings, Verdict, consume};
use platform::service::Context;
use platform::sync::MutexExt as _;
use platform::testing::eventually;
use uuid::Uuid;

/// The node that outcomes are addressed to.
pub(crate) const NODE: &str = "witness";

#[derive(Clone, Default)]
pub(crate) struct Witness(Arc<Mutex<Vec<Delivery>>>);

impl Handler for Witness {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        self.0.lock_unpoisoned().push(delivery);
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
        ctx.spawn("witness", async move {
            consume(&broker, &stop, &queue, Settings::default(), handler).await
        });
        let probe = BookingOutcomes {
            outcomes: Vec::new(),
        };
        eventually(Duration::from_secs(20), async || {
            let _ = ctx
                .broker
                .publish(Exchange::Outcomes, NODE, &probe, Uuid::new_v4())
                .await;
            !witness.heard::<BookingOutcomes>().is_empty()
        })
        .await;
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
