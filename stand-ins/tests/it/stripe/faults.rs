//! Fault injection, as seen by the caller and in the books.

use std::time::Duration;

use futures_util::future::{Either, select};
use platform::testing::eventually;
use serde_json::json;
use stand_ins::stripe::{ApiFault, Operation};
use stripe::{StripeError, StripeRequest};
use stripe_core::payment_intent::CapturePaymentIntent;
use stripe_shared::{ApiErrorsCode, ApiErrorsType, PaymentIntentStatus};

use super::{PATIENCE, Stage, create, keyed, refusal};

/// Captures with a key and a timeout.
async fn capture(
    stage: &Stage,
    id: &str,
    key: &str,
    patience: Duration,
) -> Result<stripe_shared::PaymentIntent, StripeError> {
    CapturePaymentIntent::new(id)
        .customize()
        .request_strategy(keyed(key))
        .timeout(patience)
        .send(&stage.client)
        .await
}

#[tokio::test]
async fn an_effect_whose_answer_was_cut_off_is_found_by_repeating_the_key() {
    for bytes in [0, 1, 300] {
        let stage = Stage::set().await;
        let intent = stage.authorised().await;
        let id = intent.id.as_str();
        stage.stripe.faults().next(
            1,
            Operation::CapturePaymentIntent,
            ApiFault::CutAfterEffect { bytes },
        );
        let cut = capture(&stage, id, "capture-1", PATIENCE).await;
        assert!(
            matches!(cut, Err(StripeError::ClientError(_))),
            "{bytes}: {cut:?}"
        );
        assert_eq!(stage.stripe.ledger().captured_total(id), 5_000);
        let again = capture(&stage, id, "capture-1", PATIENCE).await.unwrap();
        assert_eq!(again.status, PaymentIntentStatus::Succeeded);
    }
}

#[tokio::test]
async fn a_slow_call_has_its_effect_although_the_caller_gave_up() {
    let stage = Stage::set().await;
    let intent = stage.authorised().await;
    let id = intent.id.as_str();
    let faults = stage.stripe.faults();
    faults.next(
        1,
        None,
        ApiFault::Delay {
            milliseconds: 600_000,
        },
    );
    let caller = capture(&stage, id, "slow", PATIENCE);
    let arrived = eventually(PATIENCE, async || faults.rules().is_empty());
    tokio::select! {
        answer = caller => panic!("it is not over: {answer:?}"),
        () = arrived => {}
    }

    let (error, status) = refusal(capture(&stage, id, "slow", PATIENCE).await);
    assert_eq!(
        (status, error.code),
        (409, Some(ApiErrorsCode::IdempotencyKeyInUse))
    );
    assert_eq!(stage.stripe.ledger().captured_total(id), 0);
    faults.clear();
    eventually(PATIENCE, async || {
        stage.stripe.ledger().captured_total(id) == 5_000
    })
    .await;
    capture(&stage, id, "slow", PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_saved_500_is_replayed_whether_or_not_it_had_an_effect() {
    for (fault, captured) in [
        (ApiFault::SavedServerError, 0),
        (ApiFault::SavedServerErrorAfterEffect, 5_000),
    ] {
        let stage = Stage::set().await;
        let intent = stage.authorised().await;
        stage
            .stripe
            .faults()
            .next(1, Operation::CapturePaymentIntent, fault);
        for _ in 0..3 {
            let (error, status) =
                refusal(capture(&stage, intent.id.as_str(), "same", PATIENCE).await);
            assert_eq!((status, error.type_), (500, ApiErrorsType::ApiError));
        }
        assert_eq!(
            stage.stripe.ledger().captured_total(intent.id.as_str()),
            captured
        );
    }
}

#[tokio::test]
async fn an_unsaved_500_and_a_429_do_nothing_and_leave_the_key_free() {
    let stage = Stage::set().await;
    let intent = stage.authorised().await;
    let id = intent.id.as_str();
    stage.stripe.faults().next(1, None, ApiFault::ServerError);
    stage.stripe.faults().next(1, None, ApiFault::RateLimit);
    stage
        .stripe
        .faults()
        .next(1, None, ApiFault::CutBeforeEffect);
    assert_eq!(refusal(capture(&stage, id, "free", PATIENCE).await).1, 500);
    let (error, status) = refusal(capture(&stage, id, "free", PATIENCE).await);
    assert_eq!((status, error.code), (429, Some(ApiErrorsCode::RateLimit)));
    capture(&stage, id, "free", PATIENCE).await.unwrap_err();
    assert_eq!(stage.stripe.ledger().captured_total(id), 0);
    capture(&stage, id, "free", PATIENCE).await.unwrap();
}

#[tokio::test]
async fn a_hanging_call_never_answers() {
    for (fault, captured) in [(ApiFault::Hang, 0), (ApiFault::HangAfterEffect, 5_000)] {
        let stage = Stage::set().await;
        let intent = stage.authorised().await;
        let (faults, books) = (stage.stripe.faults(), stage.stripe.ledger());
        faults.next(1, None, fault);
        let id = intent.id.as_str();
        let hung = std::pin::pin!(capture(&stage, id, "hung", PATIENCE));
        let arrived = eventually(PATIENCE, async || {
            faults.rules().is_empty() && books.captured_total(id) == captured
        });
        let (early, hung) = match select(hung, std::pin::pin!(arrived)).await {
            Either::Left((answer, _)) => panic!("{answer:?}"),
            Either::Right(((), hung)) => (Duration::from_millis(300), hung),
        };
        assert!(tokio::time::timeout(early, hung).await.is_err());
    }
}

#[tokio::test]
async fn a_declined_card_is_replayed_under_its_key_but_a_bad_parameter_is_not() {
    let stage = Stage::set().await;
    let declined = create(100)
        .payment_method("pm_card_chargeDeclined")
        .confirm(true);
    let send = || {
        declined
            .customize()
            .request_strategy(keyed("declined"))
            .send(&stage.client)
    };
    assert_eq!(refusal(send().await).1, 402);
    assert_eq!(refusal(send().await).1, 402);
    assert_eq!(stage.stripe.ledger().payment_intents().len(), 1);

    let send = |amount| {
        let request = create(amount)
            .customize()
            .request_strategy(keyed("parameter"));
        async { request.send(&stage.client).await }
    };
    assert_eq!(refusal(send(0).await).1, 400);
    send(100).await.unwrap();
}

#[tokio::test]
async fn faults_are_set_over_http_with_the_secret_key_only() {
    let stage = Stage::set().await;
    let url = format!("{}/test/faults", stage.stripe.url());
    let rules = json!({
        "api": [{ "scope": "create_payment_intent", "when": { "next": 1 }, "action": "rate_limit" }],
        "webhooks": [{ "when": { "probability": 0.5 }, "action": { "delayed": { "milliseconds": 5 } } }],
    });
    let http = crate::http();
    assert_eq!(
        http.post(&url).json(&rules).send().await.unwrap().status(),
        401
    );
    let key = stage.stripe.secret_key();
    let set = http
        .post(&url)
        .bearer_auth(key)
        .json(&rules)
        .send()
        .await
        .unwrap();
    assert_eq!(set.json::<serde_json::Value>().await.unwrap(), rules);
    assert_eq!(refusal(create(100).send(&stage.client).await).1, 429);
    create(100).send(&stage.client).await.unwrap();
}
