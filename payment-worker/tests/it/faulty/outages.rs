use std::time::Duration;

use chrono::TimeDelta;
use platform::testing::eventually;
use stand_ins::stripe::{ApiFault, Operation, RateLimits};

use super::Trade;
use crate::pipeline::{PATIENCE, Pipeline};

const WRITES: [Operation; 4] = [
    Operation::CreatePaymentIntent,
    Operation::CapturePaymentIntent,
    Operation::CancelPaymentIntent,
    Operation::CreateRefund,
];

/// Trades with this fault once in each kind of call.
async fn trade_with(fault: ApiFault) {
    let pipeline = Pipeline::open_with(10, |config| {
        config.stripe_timeout = Duration::from_millis(500);
    })
    .await;
    for operation in WRITES {
        pipeline.stripe.faults().next(1, operation, fault);
    }
    let trade = Trade::begin(&pipeline).await;
    trade.end(&pipeline).await;
    trade.assert_done(&pipeline).await;
    let left = pipeline.stripe.faults().rules();
    assert!(left.is_empty(), "every fault happened but {left:?}");
    let intents = pipeline.stripe.ledger().payment_intents();
    // A creation with a saved 500 is made anew; nobody can pay the first.
    let orphans = usize::from(fault == ApiFault::SavedServerErrorAfterEffect);
    assert_eq!(intents.len(), 4 + orphans);
    pipeline.close().await;
}

#[tokio::test]
async fn a_timeout_with_success() {
    trade_with(ApiFault::HangAfterEffect).await;
}

#[tokio::test]
async fn an_answer_cut_off_at_any_byte() {
    for bytes in [0, 1, 17, 300, 900] {
        trade_with(ApiFault::CutAfterEffect { bytes }).await;
    }
}

#[tokio::test]
async fn a_saved_500_with_the_effect() {
    trade_with(ApiFault::SavedServerErrorAfterEffect).await;
}

#[tokio::test]
async fn a_saved_500_without_the_effect() {
    trade_with(ApiFault::SavedServerError).await;
}

#[tokio::test]
async fn a_locked_object_and_a_key_in_use() {
    trade_with(ApiFault::Locked).await;
    trade_with(ApiFault::KeyInUse).await;
}

#[tokio::test]
async fn a_storm_of_429_ends_by_itself() {
    // The account allows far less than the worker assumes.
    let pipeline = Pipeline::open(40).await;
    let limits = RateLimits { all: 8, each: 4 };
    pipeline.stripe.set_rate_limits(Some(limits));
    let mut ids = Vec::new();
    for account in 0..20 {
        ids.push(pipeline.request(account, 1).await);
    }
    for id in &ids {
        pipeline.wait_for_intent(*id).await;
        assert!(pipeline.pay(*id, "pm_card_visa").await);
    }
    for id in &ids {
        pipeline.wait_for_payment(*id, "captured").await;
    }
    let requests = pipeline.stripe.requests();
    assert!(requests.limited > 0, "there was a storm: {requests:?}");
    assert!(requests.limited < 3 * requests.accepted, "{requests:?}");
    pipeline.stripe.set_rate_limits(None);
    pipeline.close().await;
}

#[tokio::test]
async fn an_hour_without_stripe_loses_nothing_and_resells_nothing() {
    let pipeline = Pipeline::open(3).await;
    let (paid, unpaid) = (pipeline.hold(1).await, pipeline.hold(2).await);
    let down = ApiFault::CutBeforeEffect;
    pipeline
        .stripe
        .faults()
        .sometimes(1.0, Operation::CapturePaymentIntent, down);
    assert!(pipeline.pay(paid, "pm_card_visa").await);
    pipeline.wait_for_booking(paid, "confirmed").await;
    pipeline.stripe.faults().sometimes(1.0, None, down);
    let late = pipeline.request(3, 1).await;

    let breaker = "select count(*) from payment.public_backlog where breaker_open";
    let mut opened = false;
    let asked = "select coalesce(sum(tries), 0)::bigint from payment.operations";
    for _minute in 0..60 {
        pipeline.clock.jump(TimeDelta::minutes(1));
        let before = pipeline.count(asked).await;
        // It goes on probing.
        eventually(PATIENCE, async || pipeline.count(asked).await > before).await;
        opened |= pipeline.count(breaker).await == 1;
        // The holds expired long ago, but nobody knows whether this one is paid. (The one without a
        // PaymentIntent is free again.)
        assert_eq!(pipeline.booking(unpaid).await, "held");
        assert!(
            pipeline
                .count("select available::bigint from booking.sections")
                .await
                <= 1
        );
    }
    assert!(opened, "the breaker opened");
    assert!(pipeline.count(asked).await < 500, "it does not hammer");
    let refused = pipeline.request(4, 2).await;
    pipeline.wait_for_booking(refused, "rejected").await;

    pipeline.stripe.faults().clear();
    pipeline.assert_kept().await;
    assert_eq!(pipeline.booking(paid).await, "confirmed");
    assert_eq!(pipeline.booking(unpaid).await, "expired");
    assert_eq!(pipeline.booking(late).await, "expired");
    pipeline.close().await;
}
