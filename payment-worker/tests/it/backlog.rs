use platform::testing::eventually;
use stand_ins::stripe::{ApiFault, Operation};

use crate::shop::{PATIENCE, Shop};

type Backlog = (i64, f64, bool);

impl Shop {
    pub(crate) async fn backlog(&self) -> Backlog {
        sqlx::query_as("select pending, oldest_seconds, breaker_open from payment.public_backlog")
            .fetch_one(&self.app.ctx.db)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn the_backlog_is_what_stripe_has_not_answered_and_its_age() {
    let shop = Shop::open().await;
    assert_eq!(shop.backlog().await, (0, 0.0, false));
    // Until the faults are cleared, or the call is given up and made again.
    let silent = ApiFault::Delay {
        milliseconds: 60_000,
    };
    let faults = shop.stripe.faults();
    faults.sometimes(1.0, Operation::CreatePaymentIntent, silent);
    let booking = shop.booking();
    shop.send(&domain::message::HoldPlaced {
        booking: booking.clone(),
    })
    .await;
    eventually(PATIENCE, async || {
        let (pending, oldest, _) = shop.backlog().await;
        pending == 1 && oldest > 0.5
    })
    .await;
    faults.clear();
    shop.wait_for_intent(&booking).await;
    assert_eq!(shop.backlog().await, (0, 0.0, false));
    shop.close(&[]).await;
}
