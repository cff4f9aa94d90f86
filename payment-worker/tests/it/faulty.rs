//! Faults against the whole pipeline, with the stand-in's ledger as an independent witness: money
//! and tickets agree in the end.

mod crashes;
mod outages;
mod webhooks;

use domain::BookingId;
use platform::testing::eventually;

use crate::pipeline::{PATIENCE, Pipeline};

/// One booking for each way to end.
struct Trade {
    sold: BookingId,
    refunded: BookingId,
    expired: BookingId,
    given_up: BookingId,
}

impl Trade {
    /// Requests the bookings; a fault may hit any step.
    async fn begin(pipeline: &Pipeline) -> Self {
        let trade = Self {
            sold: pipeline.request(1, 1).await,
            refunded: pipeline.request(2, 1).await,
            expired: pipeline.request(3, 1).await,
            given_up: pipeline.request(4, 1).await,
        };
        for id in [trade.sold, trade.refunded, trade.expired, trade.given_up] {
            pipeline
                .wait_patiently(async || pipeline.intent(id).await.is_some())
                .await;
        }
        trade
    }

    /// Brings each booking to its end.
    async fn end(&self, pipeline: &Pipeline) {
        pipeline.cancel(self.given_up, 4).await;
        for id in [self.sold, self.refunded] {
            assert!(pipeline.pay(id, "pm_card_visa").await);
        }
        for id in [self.sold, self.refunded] {
            pipeline
                .wait_patiently(async || pipeline.payment(id).await == "captured")
                .await;
        }
        pipeline.cancel(self.refunded, 2).await;
        let refunds = || pipeline.stripe.ledger().refunds().len();
        pipeline.wait_patiently(async || refunds() == 1).await;
    }

    /// Asserts that each booking has its end, once.
    async fn assert_done(&self, pipeline: &Pipeline) {
        pipeline.assert_kept().await;
        for (id, booking, payment) in [
            (self.sold, "confirmed", "captured"),
            (self.refunded, "cancelled", "captured"),
            (self.expired, "expired", "voided"),
            (self.given_up, "cancelled", "voided"),
        ] {
            assert_eq!(pipeline.booking(id).await, booking);
            assert_eq!(pipeline.payment(id).await, payment);
        }
        assert_eq!(pipeline.stripe.ledger().refunds().len(), 1);
    }
}

impl Pipeline {
    /// Waits for a condition while the clock advances in small steps: backoffs and leases expire,
    /// paid holds don't.
    async fn wait_patiently(&self, mut condition: impl AsyncFnMut() -> bool) {
        eventually(PATIENCE, async || {
            let holds = condition().await;
            if !holds {
                self.clock.jump(chrono::TimeDelta::milliseconds(100));
            }
            holds
        })
        .await;
    }
}
