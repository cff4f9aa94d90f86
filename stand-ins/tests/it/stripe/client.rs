//! Every operation through the real client, which parses complete objects only.

use stand_ins::stripe::Status;
use stripe_core::payment_intent::{
    CancelPaymentIntent, CancelPaymentIntentCancellationReason, CapturePaymentIntent,
    ListPaymentIntent, RetrievePaymentIntent,
};
use stripe_core::refund::{CreateRefund, ListRefund, RetrieveRefund};
use stripe_shared::PaymentIntentStatus;

use super::{Stage, create};

#[tokio::test]
async fn a_manual_payment_goes_from_card_to_authorised_to_captured() {
    let stage = Stage::set().await;
    let intent = stage.intent().await;
    assert_eq!(intent.status, PaymentIntentStatus::RequiresPaymentMethod);
    assert_eq!(intent.metadata["booking_id"], "b-1");

    let intent = stage.confirm(&intent, "pm_card_visa").await.unwrap();
    assert_eq!(intent.status, PaymentIntentStatus::RequiresCapture);
    assert_eq!(
        (intent.amount_capturable, intent.amount_received),
        (5_000, 0)
    );
    assert_eq!(stage.stripe.ledger().captured_total(intent.id.as_str()), 0);

    let intent = CapturePaymentIntent::new(intent.id)
        .send(&stage.client)
        .await
        .unwrap();
    assert_eq!(intent.status, PaymentIntentStatus::Succeeded);
    assert_eq!(
        (intent.amount_capturable, intent.amount_received),
        (0, 5_000)
    );
    assert_eq!(
        stage.stripe.ledger().captured_total(intent.id.as_str()),
        5_000
    );
}

#[tokio::test]
async fn a_partial_capture_takes_no_more_than_asked() {
    let stage = Stage::set().await;
    let intent = stage.authorised().await;
    let intent = CapturePaymentIntent::new(intent.id)
        .amount_to_capture(1_200)
        .send(&stage.client)
        .await
        .unwrap();
    assert_eq!(intent.amount_received, 1_200);
    assert_eq!(
        stage.stripe.ledger().captured_total(intent.id.as_str()),
        1_200
    );
}

#[tokio::test]
async fn an_intent_can_be_created_and_confirmed_at_once() {
    let stage = Stage::set().await;
    let intent = create(700)
        .payment_method("pm_card_visa")
        .confirm(true)
        .send(&stage.client)
        .await
        .unwrap();
    assert_eq!(intent.status, PaymentIntentStatus::RequiresCapture);
}

#[tokio::test]
async fn a_payment_is_cancelled_from_every_state_before_capture() {
    let stage = Stage::set().await;
    let unpaid = stage.intent().await;
    let authorised = stage.authorised().await;
    let waiting = stage.intent().await;
    let waiting = stage
        .confirm(&waiting, "pm_card_threeDSecure2Required")
        .await
        .unwrap();
    for intent in [unpaid, authorised, waiting] {
        let before = intent.status;
        let cancelled = CancelPaymentIntent::new(intent.id)
            .cancellation_reason(CancelPaymentIntentCancellationReason::Abandoned)
            .send(&stage.client)
            .await
            .unwrap();
        assert_eq!(
            cancelled.status,
            PaymentIntentStatus::Canceled,
            "from {before}"
        );
        assert!(cancelled.canceled_at.is_some());
    }
}

#[tokio::test]
async fn the_latest_charge_is_shown_as_an_object_on_request() {
    let stage = Stage::set().await;
    let intent = stage.captured().await;
    let intent = RetrievePaymentIntent::new(intent.id)
        .expand(vec!["latest_charge".to_owned()])
        .send(&stage.client)
        .await
        .unwrap();
    let charge = intent.latest_charge.unwrap().into_object().unwrap();
    assert!(charge.captured && charge.paid);
    assert_eq!(charge.amount_captured, 5_000);
}

#[tokio::test]
async fn lists_are_paged_newest_first() {
    let stage = Stage::set().await;
    let mut created = Vec::new();
    for _ in 0..5 {
        created.push(stage.intent().await.id.to_string());
    }
    created.reverse();
    let mut listed = Vec::new();
    loop {
        let mut request = ListPaymentIntent::new().limit(2);
        if let Some(last) = listed.last() {
            request = request.starting_after(String::clone(last));
        }
        let page = request.send(&stage.client).await.unwrap();
        listed.extend(page.data.into_iter().map(|intent| intent.id.to_string()));
        if !page.has_more {
            break;
        }
    }
    assert_eq!(listed, created);
}

#[tokio::test]
async fn a_refund_is_created_found_and_listed() {
    let stage = Stage::set().await;
    let intent = stage.captured().await;
    let other = stage.captured().await;
    stage.refund(&other, 100).await.unwrap();
    let refund = stage.refund(&intent, 2_000).await.unwrap();
    assert_eq!(
        (refund.amount, refund.status.as_deref()),
        (2_000, Some("succeeded"))
    );

    let found = RetrieveRefund::new(refund.id.clone())
        .send(&stage.client)
        .await
        .unwrap();
    assert_eq!(found.amount, 2_000);
    let listed = ListRefund::new()
        .payment_intent(intent.id.as_str())
        .send(&stage.client)
        .await
        .unwrap();
    assert_eq!(listed.data.len(), 1);
    assert_eq!(listed.data[0].id, refund.id);

    let rest = CreateRefund::new()
        .payment_intent(intent.id.as_str())
        .send(&stage.client)
        .await
        .unwrap();
    assert_eq!(
        rest.amount, 3_000,
        "without an amount all that is left is given back"
    );
    assert_eq!(
        stage.stripe.ledger().refunded_total(intent.id.as_str()),
        5_000
    );
}

#[tokio::test]
async fn a_payment_declined_once_succeeds_with_another_card() {
    let stage = Stage::set().await;
    let intent = stage.intent().await;
    stage
        .confirm(&intent, "pm_card_visa_chargeDeclined")
        .await
        .unwrap_err();
    let shown = RetrievePaymentIntent::new(intent.id.clone())
        .send(&stage.client)
        .await
        .unwrap();
    assert_eq!(shown.status, PaymentIntentStatus::RequiresPaymentMethod);
    let error = shown.last_payment_error.unwrap();
    assert_eq!(error.decline_code.as_deref(), Some("generic_decline"));
    assert!(error.payment_method.is_some());

    stage.confirm(&intent, "pm_card_visa").await.unwrap();
    let books = stage.stripe.ledger();
    assert_eq!(
        books.payment_intent(intent.id.as_str()).unwrap().status,
        Status::RequiresCapture
    );
    assert_eq!(books.charges().len(), 2);
}
