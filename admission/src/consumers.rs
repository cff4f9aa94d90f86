//! Consumers of what a node holds in memory: changed sales, and outcomes of its booking requests.

use std::sync::Arc;

use domain::message::{BookingOutcomes, SaleChanged};
use platform::amqp::{self, Delivery, Handler, Settings, Verdict};
use platform::topology;

use crate::state::AppState;
use crate::{outcomes, store};

/// Consumes changes of sales and stores them, until soft shutdown.
pub(crate) async fn sales(state: Arc<AppState>) -> anyhow::Result<()> {
    let broker = state.ctx.broker.clone();
    let stop = state.ctx.shutdown.soft().clone();
    let queue = topology::admission_sales();
    amqp::consume(
        &broker,
        &stop,
        &queue,
        Settings::default(),
        SaleHandler(state),
    )
    .await
}

struct SaleHandler(Arc<AppState>);

impl Handler for SaleHandler {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let sale = match delivery.parse::<SaleChanged>() {
            Ok(message) => message.sale,
            Err(error) => return error.into(),
        };
        match store::sales::put(&self.0.ctx.db, &sale).await {
            Ok(()) => {
                self.0.sales.put(sale);
                Verdict::Ack
            }
            Err(error) => {
                tracing::warn!(event_id = %sale.event_id, %error, "failed to store a sale");
                Verdict::retry(&delivery)
            }
        }
    }
}

/// Consumes this node's outcomes and delivers them to pending requests, until soft shutdown.
pub(crate) async fn outcomes(state: Arc<AppState>) -> anyhow::Result<()> {
    let broker = state.ctx.broker.clone();
    let stop = state.ctx.shutdown.soft().clone();
    let queue = outcomes::queue(&state.ctx.node);
    amqp::consume(
        &broker,
        &stop,
        &queue,
        Settings::default(),
        OutcomeHandler(state),
    )
    .await
}

struct OutcomeHandler(Arc<AppState>);

impl Handler for OutcomeHandler {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        match delivery.parse::<BookingOutcomes>() {
            Ok(BookingOutcomes { outcomes }) => {
                for outcome in outcomes {
                    self.0.outcomes.deliver(outcome);
                }
            }
            // A transient queue of this process: there is nowhere to dead-letter it to.
            Err(error) => tracing::error!(%error, "unreadable booking outcome"),
        }
        Verdict::Ack
    }
}
