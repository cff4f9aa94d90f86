//! Definite refusals by Stripe.

use domain::account::Role;
use domain::message::{BookingExpired, Message, PaymentAuthorised, PaymentFailed};
use domain::payment::VoidReason;
use platform::testing::eventually;
use platform::topology;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use stand_ins::stripe::{ApiFault, Operation, Status, WebhookFault};

use crate::pipeline::{EVENT, Pipeline, UNLIMITED};
use crate::shop::{PATIENCE, Shop};

const REFUSED: ApiFault = ApiFault::Refused { status: 400 };

#[tokio::test]
async fn a_late_authorisation_whose_capture_is_refused_is_released() {
    let shop = Shop::open().await;
    let webhooks = shop.stripe.webhooks().faults();
    webhooks.sometimes(1.0, None::<String>, WebhookFault::Lost);
    let booking = shop.hold().await;
    assert!(shop.pay(&booking, "pm_card_visa").await);
    shop.void(&booking, VoidReason::HoldExpired).await;
    shop.wait_until_published::<PaymentAuthorised>(&booking)
        .await;
    let faults = shop.stripe.faults();
    faults.next(1, Operation::CapturePaymentIntent, REFUSED);
    shop.confirm(&booking).await;
    shop.wait_until_published::<PaymentFailed>(&booking).await;

    let intent = shop.intent_id(&booking).await.unwrap();
    let status = || shop.stripe.ledger().payment_intent(&intent).unwrap().status;
    eventually(PATIENCE, async || status() == Status::Canceled).await;
    shop.close(&[]).await;
}

#[tokio::test]
async fn a_payment_that_can_not_begin_ends_the_hold_and_says_so() {
    let pipeline = Pipeline::open(2).await;
    let faults = pipeline.stripe.faults();
    faults.next(2, Operation::CreatePaymentIntent, REFUSED);
    for account in [1, 2] {
        let id = pipeline.request(account, 1).await;
        pipeline.wait_for_booking(id, "expired").await;
    }
    let said =
        "select count(*) from booking.public_end_reasons where end_reason = 'payment_refused'";
    assert_eq!(pipeline.count(said).await, 2);
    // One finding, however many buyers meet it.
    let (status, answer) = pipeline
        .staff(
            Role::Operator,
            Method::GET,
            "/api/payment-findings",
            None,
            &Value::Null,
        )
        .await;
    assert_eq!(status, StatusCode::OK);
    let findings = answer["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{answer}");
    assert_eq!(findings[0]["kind"], "creation_refused");
    let subject = findings[0]["subject"].as_str().unwrap();
    assert!(subject.starts_with(&format!("event:{EVENT}:")), "{subject}");
    // The buyers get a notice as well.
    let published = pipeline.taken(&topology::notifier_notices(), 4).await;
    let expired = published
        .iter()
        .filter(|(name, _)| name == BookingExpired::NAME);
    let reasons: Vec<_> = expired.map(|(_, body)| body["reason"].clone()).collect();
    assert_eq!(reasons, ["payment_refused", "payment_refused"]);
    pipeline.close().await;
}

#[tokio::test]
async fn a_payment_intent_that_stripe_does_not_know_pins_no_seat_for_ever() {
    let pipeline = Pipeline::open(1).await;
    let id = pipeline.hold(1).await;
    let missing = ApiFault::Refused { status: 404 };
    let faults = pipeline.stripe.faults();
    for operation in [
        Operation::RetrievePaymentIntent,
        Operation::CancelPaymentIntent,
    ] {
        faults.sometimes(1.0, operation, missing);
    }
    pipeline
        .in_time(async || pipeline.booking(id).await == "expired")
        .await;
    let found = "select count(*) from payment.findings where kind = 'missing'";
    assert_eq!(pipeline.count(found).await, 1);
    faults.clear();
    pipeline.sell(2).await;
    pipeline.close().await;
}

#[tokio::test]
async fn a_key_that_may_not_refund_stops_nothing_else() {
    let shop = Shop::open_with(|config| config.stripe_timeout = UNLIMITED).await;
    let forbidden = ApiFault::Refused { status: 403 };
    let faults = shop.stripe.faults();
    faults.next(8, Operation::CreateRefund, forbidden);
    let mut refunded = Vec::new();
    for _ in 0..2 {
        let booking = shop.sell().await;
        shop.cancel(&booking).await;
        refunded.push(booking);
    }
    let tried = "select coalesce(sum(tries), 0)::bigint from payment.operations
        where kind = 'refund' and tries >= 3";
    eventually(PATIENCE, async || shop.count(tried).await >= 6).await;
    let open = "select count(*) from payment.breaker where failures > 0";
    assert_eq!(shop.count(open).await, 0);
    let sold = shop.sell().await;
    faults.clear();
    shop.close(&[&sold]).await;
}
