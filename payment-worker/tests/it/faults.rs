//! Faults of single calls to Stripe.

use std::time::Duration;

use domain::booking::BookingFacts;
use domain::message::PaymentAuthorised;
use domain::payment::VoidReason;
use platform::testing::eventually;
use stand_ins::stripe::{ApiFault, Operation, Status, WebhookFault};

use crate::shop::{PATIENCE, Shop};

const WRITES: [Operation; 4] = [
    Operation::CreatePaymentIntent,
    Operation::CapturePaymentIntent,
    Operation::CancelPaymentIntent,
    Operation::CreateRefund,
];

/// Sells one booking, sells and refunds another, and voids a third, with this fault once in each
/// kind of call. Webhooks of settled objects are lost, so that only the calls' own answers count.
/// Returns the booking that is sold.
async fn trade_with(shop: &Shop, fault: ApiFault) -> BookingFacts {
    let webhooks = shop.stripe.webhooks().faults();
    for settled in [
        "payment_intent.succeeded",
        "payment_intent.canceled",
        "charge.refunded",
    ] {
        webhooks.sometimes(1.0, settled.to_owned(), WebhookFault::Lost);
    }
    for operation in WRITES {
        shop.stripe.faults().next(1, operation, fault);
    }
    let sold = shop.sell().await;
    let refunded = shop.sell().await;
    shop.cancel(&refunded).await;
    let given_up = shop.hold().await;
    shop.void(&given_up, VoidReason::HoldExpired).await;
    shop.wait_for_state(&given_up, "voided").await;
    shop.come_to_rest().await;
    assert!(
        shop.stripe.faults().rules().is_empty(),
        "every fault happened"
    );
    assert_eq!(shop.stripe.ledger().refunds().len(), 1);
    sold
}

#[tokio::test]
async fn an_answer_that_is_cut_off_after_the_effect_is_settled_by_its_key() {
    for bytes in [0, 400] {
        let shop = Shop::open().await;
        let sold = trade_with(&shop, ApiFault::CutAfterEffect { bytes }).await;
        assert_eq!(
            shop.stripe.ledger().payment_intents().len(),
            3,
            "none is created twice"
        );
        let new_keys = "select count(*) from payment.operations where attempt > 1";
        assert_eq!(shop.count(new_keys).await, 0);
        shop.close(&[&sold]).await;
    }
}

#[tokio::test]
async fn an_answer_that_never_comes_after_the_effect_is_settled_by_its_key() {
    let shop = Shop::open_with(|c| c.stripe_timeout = Duration::from_millis(500)).await;
    let sold = trade_with(&shop, ApiFault::HangAfterEffect).await;
    assert_eq!(
        shop.stripe.ledger().payment_intents().len(),
        3,
        "none is created twice"
    );
    shop.close(&[&sold]).await;
}

#[tokio::test]
async fn a_call_that_had_no_effect_is_repeated() {
    for fault in [
        ApiFault::ServerError,
        ApiFault::RateLimit,
        ApiFault::CutBeforeEffect,
    ] {
        let shop = Shop::open().await;
        let sold = trade_with(&shop, fault).await;
        shop.close(&[&sold]).await;
    }
}

#[tokio::test]
async fn a_saved_500_is_settled_by_reading_the_object() {
    let shop = Shop::open().await;
    let sold = trade_with(&shop, ApiFault::SavedServerErrorAfterEffect).await;
    // Only a creation is not looked up: nobody has the secret of the first, so nobody can pay it.
    let intents = shop.stripe.ledger().payment_intents();
    assert_eq!(intents.len(), 4);
    let orphans = intents
        .iter()
        .filter(|intent| intent.status == Status::RequiresPaymentMethod);
    assert_eq!(orphans.count(), 1);
    shop.close(&[&sold]).await;
}

#[tokio::test]
async fn a_saved_500_without_effect_is_tried_with_a_new_key() {
    let shop = Shop::open().await;
    let sold = trade_with(&shop, ApiFault::SavedServerError).await;
    let new_keys =
        "select count(*) from payment.operations where attempt = 2 and state = 'succeeded'";
    assert_eq!(shop.count(new_keys).await, 4);
    shop.close(&[&sold]).await;
}

#[tokio::test]
async fn an_operation_whose_lease_ran_out_is_repeated_with_its_key() {
    let shop = Shop::open_with(|c| c.stripe_timeout = Duration::from_secs(12)).await;
    let booking = shop.hold().await;
    assert!(shop.pay(&booking, "pm_card_visa").await);
    shop.wait_until_published::<PaymentAuthorised>(&booking)
        .await;
    let captures = "payment_intent.succeeded".to_owned();
    shop.stripe
        .webhooks()
        .faults()
        .next(1, captures, WebhookFault::Lost);
    shop.stripe.faults().next(
        1,
        Operation::CapturePaymentIntent,
        ApiFault::HangAfterEffect,
    );
    shop.confirm(&booking).await;
    // Stripe has captured, and the caller dies before the answer.
    let intent = shop.intent_id(&booking).await.unwrap();
    eventually(PATIENCE, async || {
        shop.stripe.ledger().captured_total(&intent) > 0
    })
    .await;
    assert_eq!(shop.state(&booking).await, "authorised");
    sqlx::query("update payment.operations set leased_until = created_at where state = 'pending'")
        .execute(&shop.app.ctx.db)
        .await
        .unwrap();

    shop.wait_for_state(&booking, "captured").await;
    let same_key = "select count(*) from payment.operations
        where kind = 'capture' and state = 'succeeded' and attempt = 1 and tries = 2";
    assert_eq!(shop.count(same_key).await, 1);
    shop.close(&[&booking]).await;
}

#[tokio::test]
async fn a_key_that_stripe_may_have_forgotten_is_not_repeated() {
    let shop = Shop::open().await;
    shop.stripe
        .faults()
        .next(1, Operation::CreatePaymentIntent, ApiFault::HangAfterEffect);
    let booking = shop.booking();
    shop.send(&domain::message::HoldPlaced {
        booking: booking.clone(),
    })
    .await;
    let tried = "select count(*) from payment.operations where tries = 1";
    eventually(PATIENCE, async || shop.count(tried).await == 1).await;
    // A day passes, and Stripe has forgotten the key.
    sqlx::query(
        "update payment.operations
         set idempotency_key = 'forgotten', created_at = created_at - interval '23 hours 1 second',
             leased_until = created_at",
    )
    .execute(&shop.app.ctx.db)
    .await
    .unwrap();
    shop.wait_for_intent(&booking).await;
    let repeated = "select count(*) from payment.operations
        where idempotency_key = 'forgotten' and state = 'succeeded'";
    assert_eq!(shop.count(repeated).await, 0);
    assert!(shop.pay(&booking, "pm_card_visa").await);
    shop.wait_until_published::<PaymentAuthorised>(&booking)
        .await;
    shop.confirm(&booking).await;
    shop.wait_for_state(&booking, "captured").await;
    shop.close(&[&booking]).await;
}

#[tokio::test]
async fn a_void_ends_a_creation_at_once_while_stripe_is_down() {
    let shop = Shop::open_with(|c| c.stripe_timeout = Duration::from_millis(300)).await;
    let down = ApiFault::CutBeforeEffect;
    let faults = shop.stripe.faults();
    faults.sometimes(1.0, Operation::CreatePaymentIntent, down);
    let booking = shop.booking();
    shop.send(&domain::message::HoldPlaced {
        booking: booking.clone(),
    })
    .await;
    let tried = "select count(*) from payment.operations where tries > 1";
    eventually(PATIENCE, async || shop.count(tried).await == 1).await;
    eventually(PATIENCE, async || {
        shop.void(&booking, VoidReason::HoldExpired).await;
        shop.state(&booking).await == "voided"
    })
    .await;
    faults.clear();
    shop.close(&[]).await;
}
