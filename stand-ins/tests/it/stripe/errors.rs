//! Error responses, as the real client parses them.

use futures_util::future::join_all;
use stripe_core::payment_intent::{
    CancelPaymentIntent, CapturePaymentIntent, RetrievePaymentIntent,
};
use stripe_shared::{ApiErrorsCode, ApiErrorsType, PaymentIntentStatus};

use super::{Stage, client, create, refusal};

#[tokio::test]
async fn each_decline_card_is_declined_with_its_code() {
    let stage = Stage::set().await;
    for (card, code, decline_code) in [
        (
            "pm_card_visa_chargeDeclined",
            ApiErrorsCode::CardDeclined,
            Some("generic_decline"),
        ),
        (
            "pm_card_visa_chargeDeclinedInsufficientFunds",
            ApiErrorsCode::CardDeclined,
            Some("insufficient_funds"),
        ),
        (
            "pm_card_chargeDeclinedInsufficientFunds",
            ApiErrorsCode::CardDeclined,
            Some("insufficient_funds"),
        ),
        (
            "pm_card_chargeDeclinedExpiredCard",
            ApiErrorsCode::ExpiredCard,
            None,
        ),
        (
            "pm_card_chargeDeclinedIncorrectCvc",
            ApiErrorsCode::IncorrectCvc,
            None,
        ),
    ] {
        let intent = stage.intent().await;
        let (error, status) = refusal(stage.confirm(&intent, card).await);
        assert_eq!(status, 402, "{card}");
        assert_eq!(error.type_, ApiErrorsType::CardError, "{card}");
        assert_eq!(error.code, Some(code), "{card}");
        assert_eq!(error.decline_code.as_deref(), decline_code, "{card}");
        let shown = error.payment_intent.unwrap();
        assert_eq!(
            shown.status,
            PaymentIntentStatus::RequiresPaymentMethod,
            "{card}"
        );
    }
}

#[tokio::test]
async fn what_is_over_cannot_be_captured_cancelled_or_confirmed() {
    let stage = Stage::set().await;
    let cancelled = stage.authorised().await;
    CancelPaymentIntent::new(cancelled.id.clone())
        .send(&stage.client)
        .await
        .unwrap();
    let captured = stage.captured().await;
    let results = [
        CapturePaymentIntent::new(cancelled.id.clone())
            .send(&stage.client)
            .await,
        CapturePaymentIntent::new(captured.id.clone())
            .send(&stage.client)
            .await,
        CancelPaymentIntent::new(cancelled.id.clone())
            .send(&stage.client)
            .await,
        CancelPaymentIntent::new(captured.id.clone())
            .send(&stage.client)
            .await,
        stage.confirm(&cancelled, "pm_card_visa").await,
        stage.confirm(&captured, "pm_card_visa").await,
    ];
    for result in results {
        let (error, status) = refusal(result);
        assert_eq!(status, 400);
        assert_eq!(
            error.code,
            Some(ApiErrorsCode::PaymentIntentUnexpectedState)
        );
        assert!(error.payment_intent.is_some());
    }
    assert_eq!(
        stage.stripe.ledger().captured_total(captured.id.as_str()),
        5_000
    );
    assert_eq!(
        stage.stripe.ledger().captured_total(cancelled.id.as_str()),
        0
    );
}

#[tokio::test]
async fn more_than_authorised_cannot_be_captured() {
    let stage = Stage::set().await;
    let intent = stage.authorised().await;
    let result = CapturePaymentIntent::new(intent.id)
        .amount_to_capture(5_001)
        .send(&stage.client)
        .await;
    assert_eq!(refusal(result).0.code, Some(ApiErrorsCode::AmountTooLarge));
}

#[tokio::test]
async fn refunds_never_exceed_what_was_captured() {
    let stage = Stage::set().await;
    let intent = stage.captured().await;
    for amount in [0, -1, 5_001] {
        assert_eq!(
            refusal(stage.refund(&intent, amount).await).1,
            400,
            "{amount}"
        );
    }
    let results = join_all((0..50).map(|_| stage.refund(&intent, 3_000))).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    stage.refund(&intent, 2_000).await.unwrap();
    let (error, _) = refusal(stage.refund(&intent, 1).await);
    assert_eq!(error.code, Some(ApiErrorsCode::ChargeAlreadyRefunded));
    assert_eq!(
        stage.stripe.ledger().refunded_total(intent.id.as_str()),
        5_000
    );
}

#[tokio::test]
async fn an_uncaptured_payment_cannot_be_refunded() {
    let stage = Stage::set().await;
    for intent in [stage.intent().await, stage.authorised().await] {
        assert_eq!(refusal(stage.refund(&intent, 1).await).1, 400);
    }
    assert!(stage.stripe.ledger().refunds().is_empty());
}

#[tokio::test]
async fn amounts_below_one_and_unknown_cards_are_refused() {
    let stage = Stage::set().await;
    for amount in [0, -5] {
        assert_eq!(
            refusal(create(amount).send(&stage.client).await).1,
            400,
            "{amount}"
        );
    }
    let intent = stage.intent().await;
    let (error, status) = refusal(stage.confirm(&intent, "pm_card_no_such").await);
    assert_eq!(
        (status, error.code),
        (404, Some(ApiErrorsCode::ResourceMissing))
    );
}

#[tokio::test]
async fn unknown_objects_and_wrong_keys_are_refused() {
    let stage = Stage::set().await;
    let missing = RetrievePaymentIntent::new("pi_missing")
        .send(&stage.client)
        .await;
    let (error, status) = refusal(missing);
    assert_eq!(
        (status, error.code),
        (404, Some(ApiErrorsCode::ResourceMissing))
    );

    let stranger = client(&stage.stripe, "sk_test_somebody_else");
    assert_eq!(refusal(create(100).send(&stranger).await).1, 401);
    let buyer = client(&stage.stripe, stage.stripe.publishable_key());
    assert_eq!(refusal(create(100).send(&buyer).await).1, 403);
    assert!(stage.stripe.ledger().payment_intents().is_empty());
}
