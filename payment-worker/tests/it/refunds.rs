use domain::message::{RefundFailed, RefundSucceeded};
use domain::payment::VoidReason;
use futures_util::future::join_all;
use platform::testing::eventually;

use crate::shop::{PATIENCE, PRICE, Shop};

#[tokio::test]
async fn a_cancelled_booking_is_refunded_once_however_often_it_is_said() {
    let shop = Shop::open().await;
    let booking = shop.sell().await;
    join_all((0..10).map(|_| shop.cancel(&booking))).await;
    join_all((0..10).map(|_| shop.void(&booking, VoidReason::Cancelled))).await;
    shop.wait_until_published::<RefundSucceeded>(&booking).await;
    shop.come_to_rest().await;
    assert_eq!(shop.stripe.ledger().refunds().len(), 1);
    assert_eq!(shop.stripe.ledger().refunds()[0].amount, PRICE);
    assert_eq!(shop.published::<RefundSucceeded>(&booking), 1);
    shop.close(&[]).await;
}

#[tokio::test]
async fn a_refund_that_takes_its_time_succeeds_when_stripe_says_so() {
    let shop = Shop::open().await;
    let booking = shop.hold().await;
    assert!(shop.pay(&booking, "pm_card_pendingRefund").await);
    shop.wait_for_state(&booking, "authorised").await;
    shop.confirm(&booking).await;
    shop.wait_for_state(&booking, "captured").await;
    shop.cancel(&booking).await;
    shop.wait_until_published::<RefundSucceeded>(&booking).await;
    shop.close(&[]).await;
}

#[tokio::test]
async fn a_refund_that_the_bank_sends_back_counts_as_not_refunded() {
    let shop = Shop::open().await;
    let booking = shop.hold().await;
    assert!(shop.pay(&booking, "pm_card_refundFail").await);
    shop.wait_for_state(&booking, "authorised").await;
    shop.confirm(&booking).await;
    shop.wait_for_state(&booking, "captured").await;
    shop.cancel(&booking).await;
    let failed = "select count(*) from payment.refunds r join payment.payments p using (booking_id)
        where r.state = 'failed' and r.last_error is not null and p.refunded_minor = 0";
    eventually(PATIENCE, async || shop.count(failed).await == 1).await;
    // A mail announces the failure, perhaps after one that announced the refund.
    shop.wait_until_published::<RefundFailed>(&booking).await;
    shop.come_to_rest().await;
    assert_eq!(shop.published::<RefundFailed>(&booking), 1);
    // The money is still here, which staff must see.
    shop.close(&[&booking]).await;
}
