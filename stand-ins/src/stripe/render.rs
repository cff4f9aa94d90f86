//! Stripe's JSON of each object, complete, so that strict clients can parse it.

mod customers;

use serde_json::{Value, json};

use customers::{EXPIRY, billing_details, checks};
pub(crate) use customers::{customer, payment_method};

use super::calendar::AUTHORISATION;
use super::cards::Decline;
use super::model::{
    CaptureMethod, Charge, Dispute, DisputeStatus, FailedAttempt, PaymentIntent, Refund,
    RefundStatus,
};

/// Renders a PaymentIntent; `charge` replaces the id of the latest charge when expanded.
pub(crate) fn payment_intent(intent: &PaymentIntent, charge: Option<Value>) -> Value {
    let latest_charge = charge.unwrap_or_else(|| json!(intent.latest_charge));
    let automatic = intent
        .automatic_payment_methods
        .map(|redirects| json!({ "allow_redirects": redirects, "enabled": true }));
    json!({
        "id": intent.id,
        "object": "payment_intent",
        "amount": intent.amount,
        "amount_capturable": intent.amount_capturable(),
        "amount_details": { "tip": {} },
        "amount_received": intent.amount_received,
        "application": null,
        "application_fee_amount": null,
        "automatic_payment_methods": automatic,
        "canceled_at": intent.canceled_at.map(|at| at.timestamp()),
        "cancellation_reason": intent.cancellation_reason,
        "capture_method": intent.capture_method,
        "client_secret": intent.client_secret,
        "confirmation_method": "automatic",
        "created": intent.created.timestamp(),
        "currency": intent.currency,
        "customer": intent.customer,
        "description": intent.description,
        "last_payment_error": intent.last_error.as_ref().map(failed_attempt),
        "latest_charge": latest_charge,
        "livemode": false,
        "metadata": intent.metadata,
        "next_action": next_action(intent),
        "on_behalf_of": null,
        "payment_method": intent.payment_method.as_ref().map(|method| &method.id),
        "payment_method_configuration_details": null,
        "payment_method_options": { "card": {
            "installments": null,
            "mandate_options": null,
            "network": null,
            "request_three_d_secure": "automatic",
        } },
        "payment_method_types": ["card"],
        "processing": null,
        "receipt_email": intent.receipt_email,
        "review": null,
        "setup_future_usage": intent.setup_future_usage,
        "shipping": null,
        "source": null,
        "statement_descriptor": null,
        "statement_descriptor_suffix": null,
        "status": intent.status,
        "transfer_data": null,
        "transfer_group": null,
    })
}

fn next_action(intent: &PaymentIntent) -> Value {
    let Some(url) = &intent.authentication_url else {
        return Value::Null;
    };
    match &intent.return_url {
        Some(return_url) => json!({
            "type": "redirect_to_url",
            "redirect_to_url": {
                "return_url": return_url,
                "url": url,
            },
        }),
        None => json!({
            "type": "use_stripe_sdk",
            "use_stripe_sdk": {
                "type": "three_d_secure_redirect",
                "stripe_js": url,
            },
        }),
    }
}

fn failed_attempt(attempt: &FailedAttempt) -> Value {
    let mut error = decline(&attempt.decline);
    error["payment_method"] = payment_method(&attempt.payment_method);
    if let Some(charge) = &attempt.charge {
        error["charge"] = json!(charge);
    }
    error
}

/// Renders the `error` object of a declined card.
pub(crate) fn decline(decline: &Decline) -> Value {
    let mut error = json!({
        "code": decline.code,
        "doc_url": format!("https://docs.stripe.com/error-codes#{}", decline.code.replace('_', "-")),
        "message": decline.message,
        "type": "card_error",
    });
    if !decline.decline_code.is_empty() {
        error["decline_code"] = json!(decline.decline_code);
    }
    error
}

/// Renders a Charge of `intent`.
pub(crate) fn charge(charge: &Charge, intent: &PaymentIntent) -> Value {
    let failure = charge.failure;
    let captured = charge.amount_captured > 0;
    // A released authorisation counts as refunded, as at Stripe.
    let amount_refunded = if charge.is_released {
        charge.amount
    } else {
        charge.amount_refunded
    };
    json!({
        "id": charge.id,
        "object": "charge",
        "amount": charge.amount,
        "amount_captured": charge.amount_captured,
        "amount_refunded": amount_refunded,
        "application": null,
        "application_fee": null,
        "application_fee_amount": null,
        "balance_transaction": captured.then(|| charge.id.replacen("ch_", "txn_", 1)),
        "billing_details": billing_details(),
        "calculated_statement_descriptor": "ONSALE",
        "captured": captured,
        "created": charge.created.timestamp(),
        "currency": charge.currency,
        "customer": intent.customer,
        "description": intent.description,
        "disputed": charge.is_disputed,
        "failure_balance_transaction": null,
        "failure_code": failure.map(|decline| decline.code),
        "failure_message": failure.map(|decline| decline.message),
        "fraud_details": {},
        "livemode": false,
        "metadata": charge.metadata,
        "on_behalf_of": null,
        "outcome": outcome(failure.as_ref()),
        "paid": failure.is_none(),
        "payment_intent": charge.payment_intent,
        "payment_method": charge.payment_method.id,
        "payment_method_details": payment_method_details(charge, intent.capture_method),
        "radar_options": {},
        "receipt_email": intent.receipt_email,
        "receipt_number": null,
        "receipt_url": null,
        "refunded": charge.is_released
            || captured && charge.amount_refunded == charge.amount_captured,
        "review": null,
        "shipping": null,
        "source": null,
        "source_transfer": null,
        "statement_descriptor": null,
        "statement_descriptor_suffix": null,
        "status": if failure.is_some() { "failed" } else { "succeeded" },
        "transfer_data": null,
        "transfer_group": null,
    })
}

fn outcome(failure: Option<&Decline>) -> Value {
    let (network_status, kind, message) = match failure {
        None => ("approved_by_network", "authorized", "Payment complete."),
        Some(_) => (
            "declined_by_network",
            "issuer_declined",
            "The bank declined the payment.",
        ),
    };
    let reason = failure.map(|decline| match decline.decline_code {
        "" => decline.code,
        decline_code => decline_code,
    });
    json!({
        "network_status": network_status,
        "reason": reason,
        "risk_level": "normal",
        "risk_score": 10,
        "seller_message": message,
        "type": kind,
    })
}

fn payment_method_details(charge: &Charge, capture_method: CaptureMethod) -> Value {
    let card = charge.payment_method.card;
    let manual = capture_method == CaptureMethod::Manual;
    json!({
        "type": "card",
        "card": {
            "amount_authorized": charge.amount,
            "authorization_code": null,
            "brand": card.brand(),
            "capture_before": manual.then(|| (charge.created + AUTHORISATION).timestamp()),
            "checks": checks(),
            "country": "US",
            "exp_month": EXPIRY.0,
            "exp_year": EXPIRY.1,
            "fingerprint": card.fingerprint(),
            "funding": "credit",
            "installments": null,
            "last4": card.last4(),
            "mandate": null,
            "network": card.brand(),
            "three_d_secure": null,
            "wallet": null,
        },
    })
}

/// Renders a Refund.
pub(crate) fn refund(refund: &Refund) -> Value {
    let failed = refund.status == RefundStatus::Failed;
    json!({
        "id": refund.id,
        "object": "refund",
        "amount": refund.amount,
        "balance_transaction": refund.id.replacen("re_", "txn_", 1),
        "charge": refund.charge,
        "created": refund.created.timestamp(),
        "currency": refund.currency,
        "destination_details": {
            "card": { "reference_status": "pending", "reference_type": "acquirer_reference_number",
                      "type": "refund" },
            "type": "card",
        },
        "failure_reason": failed.then_some("expired_or_canceled_card"),
        "metadata": refund.metadata,
        "payment_intent": refund.payment_intent,
        "pending_reason": refund.waits_for_balance.then_some("insufficient_funds"),
        "reason": refund.reason,
        "receipt_number": null,
        "source_transfer_reversal": null,
        "status": refund.status,
        "transfer_reversal": null,
    })
}

/// Renders a Dispute.
pub(crate) fn dispute(dispute: &Dispute) -> Value {
    json!({
        "id": dispute.id,
        "object": "dispute",
        "amount": dispute.amount,
        "balance_transactions": [],
        "charge": dispute.charge,
        "created": dispute.created.timestamp(),
        "currency": dispute.currency,
        "enhanced_eligibility_types": [],
        "evidence": { "enhanced_evidence": {} },
        "evidence_details": {
            "due_by": null,
            "enhanced_eligibility": {},
            "has_evidence": false,
            "past_due": dispute.status == DisputeStatus::Lost,
            "submission_count": 0,
        },
        "is_charge_refundable": false,
        "livemode": false,
        "metadata": {},
        "payment_intent": dispute.payment_intent,
        "reason": "fraudulent",
        "status": dispute.status,
    })
}
