use domain::message::{
    BookingConfirmed, HoldPlaced, PaymentAuthorised, PaymentCaptured, PaymentFailed,
};
use platform::testing::eventually;
use stand_ins::stripe::{Status, WebhookFault};

use crate::shop::{PATIENCE, Shop};

#[tokio::test]
async fn a_paid_booking_is_captured_once() {
    let shop = Shop::open().await;
    let booking = shop.hold().await;
    let intent = shop.intent_id(&booking).await.unwrap();
    assert_eq!(shop.state(&booking).await, "pending");

    assert!(shop.pay(&booking, "pm_card_visa").await);
    shop.wait_until_published::<PaymentAuthorised>(&booking)
        .await;
    assert_eq!(shop.state(&booking).await, "authorised");
    assert_eq!(
        shop.stripe.ledger().captured_total(&intent),
        0,
        "not before there are tickets"
    );

    shop.confirm(&booking).await;
    shop.wait_until_published::<PaymentCaptured>(&booking).await;
    assert_eq!(shop.state(&booking).await, "captured");
    shop.come_to_rest().await;
    assert_eq!(shop.published::<PaymentAuthorised>(&booking), 1);
    assert_eq!(shop.published::<PaymentCaptured>(&booking), 1);
    shop.close(&[&booking]).await;
}

#[tokio::test]
async fn messages_that_come_again_change_nothing() {
    let shop = Shop::open().await;
    let booking = shop.booking();
    let held = HoldPlaced {
        booking: booking.clone(),
    };
    tokio::join!(shop.send(&held), shop.send(&held));
    shop.wait_for_intent(&booking).await;
    assert!(shop.pay(&booking, "pm_card_visa").await);
    shop.wait_until_published::<PaymentAuthorised>(&booking)
        .await;
    tokio::join!(shop.confirm(&booking), shop.confirm(&booking));
    shop.wait_for_state(&booking, "captured").await;
    shop.send(&held).await;
    shop.confirm(&booking).await;
    eventually(PATIENCE, async || {
        shop.published::<PaymentCaptured>(&booking) > 1
    })
    .await;
    shop.come_to_rest().await;

    assert_eq!(shop.stripe.ledger().payment_intents().len(), 1);
    assert_eq!(
        shop.count("select count(*) from payment.operations").await,
        2
    );
    assert_eq!(shop.published::<PaymentAuthorised>(&booking), 1);
    shop.close(&[&booking]).await;
}

#[tokio::test]
async fn a_confirmation_that_overtakes_the_authorisation_waits_for_it() {
    let shop = Shop::open().await;
    let booking = shop.hold().await;
    shop.confirm(&booking).await;
    assert!(shop.pay(&booking, "pm_card_visa").await);
    shop.wait_for_state(&booking, "captured").await;
    shop.close(&[&booking]).await;
}

#[tokio::test]
async fn a_free_booking_never_reaches_stripe() {
    let shop = Shop::open().await;
    let mut free = shop.booking();
    free.total.amount_minor = 0;
    shop.send(&HoldPlaced {
        booking: free.clone(),
    })
    .await;
    shop.send(&BookingConfirmed {
        booking: free.clone(),
        tickets: vec![],
    })
    .await;
    // Sent after it through the same queue.
    shop.hold().await;
    assert_eq!(shop.stripe.ledger().payment_intents().len(), 1);
    assert_eq!(shop.state(&free).await, "");
    shop.close(&[]).await;
}

#[tokio::test]
async fn a_declined_card_leaves_the_payment_due_and_another_card_pays_it() {
    let shop = Shop::open().await;
    let booking = shop.hold().await;
    assert!(!shop.pay(&booking, "pm_card_visa_chargeDeclined").await);
    let declined = "select count(*) from payment.payments
        where state = 'pending' and last_error = 'Your card was declined.'";
    eventually(PATIENCE, async || shop.count(declined).await == 1).await;

    assert!(shop.pay(&booking, "pm_card_visa").await);
    shop.wait_until_published::<PaymentAuthorised>(&booking)
        .await;
    shop.confirm(&booking).await;
    shop.wait_for_state(&booking, "captured").await;
    shop.close(&[&booking]).await;
}

#[tokio::test]
async fn a_payment_shows_that_the_bank_asks_for_another_step() {
    let shop = Shop::open().await;
    let booking = shop.hold().await;
    assert!(shop.pay(&booking, "pm_card_threeDSecure2Required").await);
    shop.wait_for_state(&booking, "requires_action").await;
    shop.authenticate(&booking).await;
    shop.wait_until_published::<PaymentAuthorised>(&booking)
        .await;
    shop.confirm(&booking).await;
    shop.wait_for_state(&booking, "captured").await;
    shop.close(&[&booking]).await;
}

#[tokio::test]
async fn an_impossible_capture_is_announced() {
    let shop = Shop::open().await;
    let booking = shop.hold().await;
    assert!(shop.pay(&booking, "pm_card_visa").await);
    shop.wait_until_published::<PaymentAuthorised>(&booking)
        .await;
    // Canceled in Stripe's dashboard, and the webhook is lost.
    let webhooks = shop.stripe.webhooks().faults();
    webhooks.next(1, "payment_intent.canceled".to_owned(), WebhookFault::Lost);
    let intent = shop.intent_id(&booking).await.unwrap();
    let url = format!("{}/v1/payment_intents/{intent}/cancel", shop.stripe.url());
    let cancelling = shop
        .http
        .post(url)
        .bearer_auth(shop.stripe.secret_key())
        .send();
    assert!(cancelling.await.unwrap().status().is_success());
    assert_eq!(
        shop.stripe.ledger().payment_intent(&intent).unwrap().status,
        Status::Canceled
    );

    shop.confirm(&booking).await;
    shop.wait_until_published::<PaymentFailed>(&booking).await;
    assert_eq!(shop.state(&booking).await, "failed");
    // A repeated confirmation is answered again.
    shop.confirm(&booking).await;
    eventually(PATIENCE, async || {
        shop.published::<PaymentFailed>(&booking) == 2
    })
    .await;
    shop.close(&[]).await;
}
