use domain::message::{HoldPlaced, PaymentAuthorised, PaymentCaptured, PaymentVoided};
use domain::payment::VoidReason;
use platform::testing::eventually;
use stand_ins::stripe::{ApiFault, Operation, Status, WebhookFault};

use crate::shop::{PATIENCE, Shop};

#[tokio::test]
async fn a_void_that_comes_before_its_hold_leaves_no_intent() {
    let shop = Shop::open().await;
    let booking = shop.booking();
    shop.void(&booking, VoidReason::HoldExpired).await;
    shop.wait_until_published::<PaymentVoided>(&booking).await;
    shop.send(&HoldPlaced {
        booking: booking.clone(),
    })
    .await;
    // Sent after it through the same queue.
    shop.hold().await;
    assert_eq!(shop.state(&booking).await, "voided");
    assert_eq!(shop.stripe.ledger().payment_intents().len(), 1);
    shop.close(&[]).await;
}

#[tokio::test]
async fn an_unpaid_hold_that_ends_is_voided_and_announced_again_when_asked_again() {
    let shop = Shop::open().await;
    let booking = shop.hold().await;
    shop.void(&booking, VoidReason::HoldExpired).await;
    shop.wait_until_published::<PaymentVoided>(&booking).await;
    assert_eq!(shop.state(&booking).await, "voided");
    let intent = shop.intent_id(&booking).await.unwrap();
    assert_eq!(
        shop.stripe.ledger().payment_intent(&intent).unwrap().status,
        Status::Canceled
    );
    shop.void(&booking, VoidReason::HoldExpired).await;
    eventually(PATIENCE, async || {
        shop.published::<PaymentVoided>(&booking) == 2
    })
    .await;
    assert!(
        !shop.pay(&booking, "pm_card_visa").await,
        "nobody can pay any more"
    );
    shop.close(&[]).await;
}

#[tokio::test]
async fn a_buyer_who_authorised_before_the_hold_ended_keeps_the_seats() {
    let shop = Shop::open().await;
    shop.stripe
        .webhooks()
        .faults()
        .sometimes(1.0, None::<String>, WebhookFault::Lost);
    let booking = shop.hold().await;
    assert!(shop.pay(&booking, "pm_card_visa").await);
    assert_eq!(shop.state(&booking).await, "pending", "the webhook is lost");

    shop.void(&booking, VoidReason::HoldExpired).await;
    shop.wait_until_published::<PaymentAuthorised>(&booking)
        .await;
    shop.void(&booking, VoidReason::HoldExpired).await;
    eventually(PATIENCE, async || {
        shop.published::<PaymentAuthorised>(&booking) == 2
    })
    .await;
    let intent = shop.intent_id(&booking).await.unwrap();
    let status = shop.stripe.ledger().payment_intent(&intent).unwrap().status;
    assert_eq!(status, Status::RequiresCapture);
    assert_eq!(shop.published::<PaymentVoided>(&booking), 0);

    shop.confirm(&booking).await;
    shop.wait_for_state(&booking, "captured").await;
    shop.close(&[&booking]).await;
}

#[tokio::test]
async fn a_cancellation_releases_what_was_authorised() {
    let shop = Shop::open().await;
    let booking = shop.hold().await;
    assert!(shop.pay(&booking, "pm_card_visa").await);
    shop.wait_until_published::<PaymentAuthorised>(&booking)
        .await;
    shop.void(&booking, VoidReason::Cancelled).await;
    shop.wait_until_published::<PaymentVoided>(&booking).await;
    let intent = shop.intent_id(&booking).await.unwrap();
    assert_eq!(
        shop.stripe.ledger().payment_intent(&intent).unwrap().status,
        Status::Canceled
    );
    shop.close(&[]).await;
}

#[tokio::test]
async fn a_void_while_the_intent_is_being_created_cancels_it_afterwards() {
    let shop = Shop::open().await;
    let slow = ApiFault::Delay { milliseconds: 500 };
    shop.stripe
        .faults()
        .next(1, Operation::CreatePaymentIntent, slow);
    let booking = shop.booking();
    shop.send(&HoldPlaced {
        booking: booking.clone(),
    })
    .await;
    let tried = "select count(*) from payment.operations where tries > 0";
    eventually(PATIENCE, async || shop.count(tried).await == 1).await;
    shop.void(&booking, VoidReason::Cancelled).await;
    shop.wait_until_published::<PaymentVoided>(&booking).await;
    shop.come_to_rest().await;
    let intents = shop.stripe.ledger().payment_intents();
    assert_eq!(intents.len(), 1);
    assert_eq!(intents[0].status, Status::Canceled);
    shop.close(&[]).await;
}

#[tokio::test]
async fn a_cancellation_that_overtakes_the_capture_prevents_it() {
    let shop = Shop::open().await;
    let booking = shop.hold().await;
    assert!(shop.pay(&booking, "pm_card_visa").await);
    shop.wait_until_published::<PaymentAuthorised>(&booking)
        .await;
    shop.cancel(&booking).await;
    let reason = "select count(*) from payment.payments where void_reason = 'cancelled'";
    eventually(PATIENCE, async || shop.count(reason).await == 1).await;
    shop.confirm(&booking).await;
    shop.wait_for_state(&booking, "voided").await;
    shop.come_to_rest().await;
    assert_eq!(shop.published::<PaymentCaptured>(&booking), 0);
    shop.close(&[]).await;
}

#[tokio::test]
async fn a_void_of_what_is_captured_already_refunds_it() {
    let shop = Shop::open().await;
    let booking = shop.sell().await;
    shop.void(&booking, VoidReason::Cancelled).await;
    shop.wait_until_published::<PaymentVoided>(&booking).await;
    let refunded = "select count(*) from payment.refunds where state = 'succeeded'";
    eventually(PATIENCE, async || shop.count(refunded).await == 1).await;
    // A repeat is answered again and refunds nothing more.
    shop.void(&booking, VoidReason::Cancelled).await;
    eventually(PATIENCE, async || {
        shop.published::<PaymentVoided>(&booking) == 2
    })
    .await;
    shop.close(&[]).await;
}

#[tokio::test]
async fn a_thousand_repeated_voids_cost_a_few_transactions_and_one_call() {
    let shop = Shop::open().await;
    let bookings = [shop.hold().await, shop.hold().await];
    shop.stripe.faults().sometimes(
        1.0,
        Operation::CancelPaymentIntent,
        ApiFault::CutBeforeEffect,
    );
    for _ in 0..500 {
        for booking in &bookings {
            shop.void(booking, VoidReason::HoldExpired).await;
        }
    }
    let cancels = "select count(*) from payment.operations where kind = 'cancel'";
    eventually(PATIENCE, async || shop.count(cancels).await == 2).await;
    shop.stripe.faults().clear();
    // However many tries there were meanwhile, the next is due now.
    let due = "with closed as (update payment.breaker set failures = 0, open_until = '-infinity')
        update payment.operations set next_try_at = created_at where state = 'pending'";
    for booking in &bookings {
        eventually(PATIENCE, async || {
            sqlx::query(due).execute(&shop.app.ctx.db).await.unwrap();
            shop.state(booking).await == "voided"
        })
        .await;
    }
    assert_eq!(shop.count(cancels).await, 2);
    shop.close(&[]).await;
}

#[tokio::test]
async fn a_cancellation_during_the_capture_is_refunded() {
    let shop = Shop::open().await;
    let slow = ApiFault::Delay { milliseconds: 500 };
    shop.stripe
        .faults()
        .next(1, Operation::CapturePaymentIntent, slow);
    let booking = shop.hold().await;
    assert!(shop.pay(&booking, "pm_card_visa").await);
    shop.wait_until_published::<PaymentAuthorised>(&booking)
        .await;
    shop.confirm(&booking).await;
    let capturing = "select count(*) from payment.operations where kind = 'capture' and tries > 0";
    eventually(PATIENCE, async || shop.count(capturing).await == 1).await;
    tokio::join!(shop.cancel(&booking), shop.cancel(&booking));
    let refunded = "select count(*) from payment.refunds where state = 'succeeded'";
    eventually(PATIENCE, async || shop.count(refunded).await == 1).await;
    shop.close(&[]).await;
}
