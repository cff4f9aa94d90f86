use chrono::TimeDelta;
use domain::BookingId;
use platform::testing::{Proxy, eventually};
use secrecy::ExposeSecret;
use stand_ins::stripe::{ApiFault, Operation, WebhookFault};
use url::Url;

use super::Trade;
use crate::pipeline::{PATIENCE, Pipeline};

/// Longer than any lease.
const LEASE: TimeDelta = TimeDelta::seconds(30);

/// Brings a booking to this call.
async fn lead_to(pipeline: &Pipeline, operation: Operation) -> BookingId {
    match operation {
        Operation::CreatePaymentIntent => pipeline.request(1, 1).await,
        Operation::CapturePaymentIntent => {
            let id = pipeline.hold(1).await;
            assert!(pipeline.pay(id, "pm_card_visa").await);
            id
        }
        Operation::CancelPaymentIntent => {
            let id = pipeline.hold(1).await;
            pipeline.cancel(id, 1).await;
            id
        }
        _ => {
            let id = pipeline.sell(1).await;
            pipeline.cancel(id, 1).await;
            id
        }
    }
}

/// Crashes the payment worker while this call hangs, before or after its effect.
async fn crash_during(pipeline: &Pipeline, operation: Operation, fault: ApiFault) {
    pipeline.stripe.faults().next(1, operation, fault);
    let id = lead_to(pipeline, operation).await;
    let stripe = &pipeline.stripe;
    eventually(PATIENCE, async || stripe.faults().rules().is_empty()).await;
    pipeline.crash_payments().await;
    pipeline.start_payments(None).await;
    pipeline.clock.jump(LEASE);
    match operation {
        Operation::CreatePaymentIntent => pipeline.wait_for_intent(id).await,
        Operation::CapturePaymentIntent => pipeline.wait_for_payment(id, "captured").await,
        Operation::CancelPaymentIntent => pipeline.wait_for_booking(id, "cancelled").await,
        _ => {}
    }
    pipeline.assert_kept().await;
}

/// Calls with an effect.
const WRITES: [Operation; 4] = [
    Operation::CreatePaymentIntent,
    Operation::CapturePaymentIntent,
    Operation::CancelPaymentIntent,
    Operation::CreateRefund,
];

async fn crash_during_each(fault: ApiFault) {
    let pipeline = Pipeline::open(10).await;
    // The answer is lost with the worker, and so are the webhooks about it.
    for settled in [
        "payment_intent.succeeded",
        "payment_intent.canceled",
        "charge.refunded",
    ] {
        let webhooks = pipeline.stripe.webhooks().faults();
        webhooks.sometimes(1.0, settled.to_owned(), WebhookFault::Lost);
    }
    for operation in WRITES {
        crash_during(&pipeline, operation, fault).await;
    }
    let ledger = pipeline.stripe.ledger();
    assert_eq!(ledger.payment_intents().len(), 4, "none is created twice");
    assert_eq!(ledger.refunds().len(), 1);
    pipeline.close().await;
}

#[tokio::test]
async fn a_crash_before_the_call_reaches_stripe_costs_only_time() {
    crash_during_each(ApiFault::Hang).await;
}

#[tokio::test]
async fn a_crash_after_stripe_accepted_does_nothing_twice() {
    crash_during_each(ApiFault::HangAfterEffect).await;
}

/// A proxy in front of RabbitMQ.
async fn through_a_proxy(pipeline: &Pipeline) -> (Proxy, String) {
    let mut url = Url::parse(pipeline.app.ctx.config.amqp_url.expose_secret()).unwrap();
    let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5672));
    let proxy = Proxy::to(target).await;
    url.set_ip_host(proxy.address().ip()).unwrap();
    url.set_port(Some(proxy.address().port())).unwrap();
    (proxy, url.to_string())
}

#[tokio::test]
async fn a_payment_worker_that_crashes_before_its_ack_does_nothing_twice() {
    let pipeline = Pipeline::open(10).await;
    pipeline.crash_payments().await;
    let (proxy, url) = through_a_proxy(&pipeline).await;
    pipeline.start_payments(Some(&url)).await;
    let paid = pipeline.sell(1).await;
    let held = pipeline.hold(2).await;

    // From now on everything is committed, but no acknowledgement and no message leaves.
    proxy.mute();
    let late = pipeline.hold(3).await;
    pipeline.cancel(paid, 1).await;
    pipeline.cancel(held, 2).await;
    let refunded = "select count(*) from payment.refunds where state = 'succeeded'";
    eventually(PATIENCE, async || pipeline.count(refunded).await == 1).await;
    pipeline.wait_for_payment(held, "voided").await;
    pipeline.crash_payments().await;
    pipeline.start_payments(None).await;

    assert!(pipeline.pay(late, "pm_card_visa").await);
    pipeline.wait_for_payment(late, "captured").await;
    pipeline.assert_kept().await;
    assert_eq!(pipeline.stripe.ledger().payment_intents().len(), 3);
    assert_eq!(pipeline.stripe.ledger().refunds().len(), 1);
    pipeline.close().await;
}

#[tokio::test]
async fn a_booking_worker_that_crashes_before_its_ack_does_nothing_twice() {
    let pipeline = Pipeline::open(10).await;
    pipeline.crash_bookings().await;
    let (proxy, url) = through_a_proxy(&pipeline).await;
    pipeline.start_bookings(Some(&url)).await;
    let paid = pipeline.hold(1).await;
    proxy.mute();
    let held = pipeline.request(2, 1).await;
    assert!(pipeline.pay(paid, "pm_card_visa").await);
    pipeline.wait_for_booking(paid, "confirmed").await;
    pipeline.wait_for_booking(held, "held").await;
    pipeline.crash_bookings().await;
    pipeline.start_bookings(None).await;
    pipeline.wait_for_payment(paid, "captured").await;
    pipeline.wait_for_intent(held).await;
    pipeline.close().await;
}

#[tokio::test]
async fn both_may_crash_at_any_step_of_a_trade() {
    let pipeline = Pipeline::open(10).await;
    let trade = Trade::begin(&pipeline).await;
    pipeline.crash_bookings().await;
    pipeline.crash_payments().await;
    pipeline.start_payments(None).await;
    pipeline.start_bookings(None).await;
    trade.end(&pipeline).await;
    pipeline.crash_payments().await;
    pipeline.crash_bookings().await;
    pipeline.start_bookings(None).await;
    pipeline.start_payments(None).await;
    trade.assert_done(&pipeline).await;
    pipeline.close().await;
}
