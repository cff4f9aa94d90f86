//! State transitions of a payment attempt, by the behaviour of its card.

use serde_json::{Value, json};

use super::balance;
use super::calendar;
use super::cards::{AUTHENTICATION_REQUIRED, Behaviour, Decline, NOT_AUTHENTICATED};
use super::errors::{ErrorType, Refusal};
use super::ids;
use super::ledger::Books;
use super::model::{CaptureMethod, Charge, FailedAttempt, PaymentMethod, Status};
use super::{payment_methods, render};

/// Confirms an intent with `method`, or with the one already attached.
///
/// `off_session` means that the buyer is absent and can't authenticate.
pub(crate) fn confirm(
    books: &mut Books,
    id: &str,
    method: Option<PaymentMethod>,
    off_session: bool,
) -> Result<Value, Refusal> {
    let method = match method.or_else(|| books.known(id).payment_method.clone()) {
        Some(method) => method,
        None => {
            let message = "You cannot confirm this PaymentIntent because it's missing a payment \
                           method. Confirm it again with a payment method.";
            return Err(Refusal::unexpected_state(message, books.show(id)));
        }
    };
    match method.card.behaviour {
        Behaviour::Declines(decline) => Err(decline_payment(books, id, method, decline)),
        Behaviour::Authenticates if off_session => {
            Err(decline_payment(books, id, method, AUTHENTICATION_REQUIRED))
        }
        Behaviour::Authenticates => Ok(ask_to_authenticate(books, id, method)),
        Behaviour::Succeeds | Behaviour::RefundsLate | Behaviour::RefundFails => {
            Ok(authorise(books, id, method))
        }
    }
}

/// Completes 3-D Secure, successfully or not.
pub(crate) fn authenticate(books: &mut Books, id: &str, passed: bool) -> Result<Value, Refusal> {
    let intent = books.intent(id)?;
    let method = intent.payment_method.clone();
    let Some(method) = method.filter(|_| intent.status == Status::RequiresAction) else {
        let message = format!(
            "This PaymentIntent has nothing to authenticate: it has a status of {}.",
            intent.status.as_str()
        );
        return Err(Refusal::unexpected_state(message, books.show(id)));
    };
    if passed {
        return Ok(authorise(books, id, method));
    }
    fail(
        books,
        id,
        FailedAttempt {
            decline: NOT_AUTHENTICATED,
            payment_method: method,
            charge: None,
        },
    );
    Ok(books.emit("payment_intent.payment_failed", id))
}

/// Captures `amount` of an authorised intent.
pub(crate) fn capture(books: &mut Books, id: &str, amount: i64) {
    let intent = books.known(id);
    intent.status = Status::Succeeded;
    intent.amount_received = amount;
    let charge = intent
        .latest_charge
        .clone()
        .expect("an authorised intent has a charge");
    let charge = books
        .charges
        .get_mut(&charge)
        .expect("a charge is never removed");
    charge.amount_captured = amount;
    let currency = charge.currency.clone();
    balance::add(books, &currency, amount);
}

/// Releases an authorisation, if there is one, and emits `kind`. The charge then counts as
/// refunded, as at Stripe.
pub(crate) fn release(books: &mut Books, id: &str, kind: &'static str) {
    let intent = books.known(id);
    if intent.status != Status::RequiresCapture {
        return;
    }
    let Some(charge_id) = intent.latest_charge.clone() else {
        return;
    };
    let charge = books.charges.get_mut(&charge_id);
    charge.expect("a charge is never removed").is_released = true;
    books.emit_charge(kind, &charge_id);
}

/// Cancels an intent.
pub(crate) fn cancel(books: &mut Books, id: &str, reason: Option<String>) -> Value {
    let now = books.now();
    let intent = books.known(id);
    intent.status = Status::Canceled;
    intent.authentication_url = None;
    intent.canceled_at = Some(now);
    intent.cancellation_reason = reason;
    books.emit("payment_intent.canceled", id)
}

fn authorise(books: &mut Books, id: &str, method: PaymentMethod) -> Value {
    let method = payment_methods::consume(books, id, method);
    let charge = add_charge(books, id, method.clone(), None);
    let intent = books.known(id);
    intent.latest_charge = Some(charge.clone());
    intent.payment_method = Some(method);
    intent.authentication_url = None;
    intent.last_error = None;
    if intent.capture_method == CaptureMethod::Manual {
        intent.status = Status::RequiresCapture;
        calendar::enter(books, id);
        books.emit_charge("charge.succeeded", &charge);
        return books.emit("payment_intent.amount_capturable_updated", id);
    }
    let amount = intent.amount;
    capture(books, id, amount);
    books.emit_charge("charge.succeeded", &charge);
    books.emit("payment_intent.succeeded", id)
}

fn ask_to_authenticate(books: &mut Books, id: &str, method: PaymentMethod) -> Value {
    let url = books.authentication_url(id);
    let intent = books.known(id);
    intent.status = Status::RequiresAction;
    intent.authentication_url = Some(url);
    intent.payment_method = Some(method);
    books.emit("payment_intent.requires_action", id)
}

fn decline_payment(
    books: &mut Books,
    id: &str,
    method: PaymentMethod,
    decline: Decline,
) -> Refusal {
    let charge = add_charge(books, id, method.clone(), Some(decline));
    let payment_method = render::payment_method(&method);
    fail(
        books,
        id,
        FailedAttempt {
            decline,
            payment_method: method,
            charge: Some(charge.clone()),
        },
    );
    books.emit_charge("charge.failed", &charge);
    let intent = books.emit("payment_intent.payment_failed", id);
    let mut refusal = Refusal::executed(402, ErrorType::Card, decline.message)
        .code(decline.code)
        .with("charge", json!(charge))
        .with("payment_intent", intent)
        .with("payment_method", payment_method);
    if !decline.decline_code.is_empty() {
        refusal = refusal.with("decline_code", json!(decline.decline_code));
    }
    refusal
}

fn fail(books: &mut Books, id: &str, attempt: FailedAttempt) {
    let intent = books.known(id);
    intent.status = Status::RequiresPaymentMethod;
    intent.authentication_url = None;
    intent.payment_method = None;
    if attempt.charge.is_some() {
        intent.latest_charge.clone_from(&attempt.charge);
    }
    intent.last_error = Some(attempt);
}

fn add_charge(
    books: &mut Books,
    id: &str,
    payment_method: PaymentMethod,
    failure: Option<Decline>,
) -> String {
    let created = books.now();
    let intent = books.known(id);
    let charge = Charge {
        id: ids::charge(),
        payment_intent: intent.id.clone(),
        amount: intent.amount,
        amount_captured: 0,
        amount_refunded: 0,
        currency: intent.currency.clone(),
        created,
        failure,
        is_released: false,
        is_disputed: false,
        payment_method,
        metadata: intent.metadata.clone(),
    };
    let charge_id = charge.id.clone();
    books.charges.insert(charge);
    charge_id
}
