//! Saving a card while calls to Stripe fail.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use domain::BookingId;
use futures_util::future::join_all;
use platform::testing::eventually;
use reqwest::StatusCode;
use serde_json::json;
use stand_ins::stripe::{ApiFault, Operation};

use super::ANNA;
use crate::pipeline::{PATIENCE, Pipeline};

/// Timeout of a call, in which the worker certainly crashes.
const TIMEOUT: Duration = Duration::from_secs(12);
/// Longer than any lease.
const LEASE: TimeDelta = TimeDelta::seconds(60);

async fn open(seats: u32) -> Arc<Pipeline> {
    let opening = Pipeline::open_with(seats, |config| config.stripe_timeout = TIMEOUT);
    Arc::new(opening.await)
}

/// Crashes the worker while Stripe performs the call, and starts it again.
async fn crash_while_saving(pipeline: &Arc<Pipeline>, id: BookingId, operation: Operation) {
    let faults = pipeline.stripe.faults();
    faults.next(1, operation, ApiFault::HangAfterEffect);
    let path = pipeline.public_url(&format!("/api/bookings/{id}/card"));
    let token = pipeline.access_token(ANNA, Vec::new());
    let request = pipeline.http.put(path).bearer_auth(token);
    let saving = tokio::spawn(request.json(&json!({ "save": true })).send());
    eventually(PATIENCE, async || faults.rules().is_empty()).await;
    pipeline.crash_payments().await;
    assert!(saving.await.unwrap().is_err(), "the answer is lost");
    pipeline.start_payments(None).await;
}

async fn save(pipeline: &Pipeline, id: BookingId) -> StatusCode {
    pipeline.choose(ANNA, id, json!({ "save": true })).await
}

/// Pays the booking; the card is saved.
async fn finish(pipeline: Arc<Pipeline>, id: BookingId) {
    assert!(pipeline.pay(id, "pm_card_visa").await);
    pipeline.wait_for_payment(id, "captured").await;
    assert_eq!(pipeline.saved_cards(ANNA).await.len(), 1);
    assert_eq!(pipeline.customers().len(), 1, "there is one customer");
    Arc::into_inner(pipeline).unwrap().close().await;
}

#[tokio::test]
async fn a_crash_after_stripe_made_the_customer_makes_no_second_one() {
    let pipeline = open(1).await;
    let id = pipeline.hold(ANNA).await;
    crash_while_saving(&pipeline, id, Operation::CreateCustomer).await;
    assert_eq!(pipeline.customers().len(), 1);
    assert_eq!(save(&pipeline, id).await, StatusCode::OK);
    finish(pipeline, id).await;
}

#[tokio::test]
async fn a_customer_is_found_when_its_key_is_too_old_to_be_repeated() {
    let pipeline = open(2).await;
    let expired = pipeline.hold(ANNA).await;
    crash_while_saving(&pipeline, expired, Operation::CreateCustomer).await;
    pipeline.clock.jump(TimeDelta::hours(25));
    pipeline.wait_for_booking(expired, "expired").await;
    let id = pipeline.hold(ANNA).await;
    assert_eq!(save(&pipeline, id).await, StatusCode::OK);
    finish(pipeline, id).await;
}

#[tokio::test]
async fn a_crash_while_the_payment_gets_its_customer_is_made_up_for_without_the_buyer() {
    let pipeline = open(1).await;
    let id = pipeline.hold(ANNA).await;
    crash_while_saving(&pipeline, id, Operation::UpdatePaymentIntent).await;
    pipeline.clock.jump(LEASE);
    let done = "select count(*) from payment.operations
        where kind = 'assign' and state = 'succeeded' and attempt = 1 and tries = 2";
    eventually(PATIENCE, async || pipeline.count(done).await == 1).await;
    finish(pipeline, id).await;
}

#[tokio::test]
async fn answers_that_are_lost_or_say_nothing_make_no_second_customer() {
    for fault in [
        ApiFault::CutAfterEffect { bytes: 0 },
        ApiFault::CutAfterEffect { bytes: 400 },
        ApiFault::ServerError,
        ApiFault::KeyInUse,
        ApiFault::SavedServerErrorAfterEffect,
        ApiFault::SavedServerError,
    ] {
        let pipeline = open(1).await;
        let id = pipeline.hold(ANNA).await;
        pipeline
            .stripe
            .faults()
            .next(1, Operation::CreateCustomer, fault);
        let mut refused = 0;
        eventually(PATIENCE, async || {
            let status = save(&pipeline, id).await;
            assert!(
                status == StatusCode::OK || status == StatusCode::SERVICE_UNAVAILABLE,
                "{status} after {fault:?}"
            );
            refused += u32::from(status != StatusCode::OK);
            status == StatusCode::OK
        })
        .await;
        // A saved 500 is answered three times; without an effect behind it the key is then
        // replaced.
        let expected = match fault {
            ApiFault::SavedServerErrorAfterEffect => 2,
            ApiFault::SavedServerError => 3,
            _ => 1,
        };
        assert_eq!(refused, expected, "{fault:?}");
        finish(pipeline, id).await;
    }
}

#[tokio::test]
async fn ten_wishes_at_once_make_one_customer() {
    let pipeline = Arc::new(Pipeline::open(2).await);
    let (id, other) = (pipeline.hold(ANNA).await, pipeline.hold(ANNA).await);
    let slow = ApiFault::Delay { milliseconds: 200 };
    pipeline
        .stripe
        .faults()
        .next(1, Operation::CreateCustomer, slow);
    let wishes = (0..10).map(|n| save(&pipeline, if n % 2 == 0 { id } else { other }));
    for status in join_all(wishes).await {
        assert!(
            status == StatusCode::OK || status == StatusCode::SERVICE_UNAVAILABLE,
            "{status}"
        );
    }
    assert_eq!(pipeline.customers().len(), 1);
    eventually(PATIENCE, async || {
        save(&pipeline, id).await == StatusCode::OK
    })
    .await;
    pipeline.cancel(other, ANNA).await;
    finish(pipeline, id).await;
}

#[tokio::test]
async fn while_stripe_seems_down_a_buyer_is_answered_at_once() {
    let pipeline = Arc::new(Pipeline::open(1).await);
    let id = pipeline.hold(ANNA).await;
    let set = async |query: &'static str| {
        sqlx::query(query)
            .execute(&pipeline.app.ctx.db)
            .await
            .unwrap();
    };
    set("update payment.breaker set failures = 5, open_until = 'infinity'").await;
    let accepted = pipeline.stripe.requests().accepted;
    assert_eq!(save(&pipeline, id).await, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(pipeline.stripe.requests().accepted, accepted);
    set("update payment.breaker set failures = 0, open_until = '-infinity'").await;
    assert_eq!(save(&pipeline, id).await, StatusCode::OK);
    finish(pipeline, id).await;
}
