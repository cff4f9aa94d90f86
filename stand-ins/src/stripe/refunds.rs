//! `POST|GET /v1/refunds…`: parameters, caps and effects.

use super::amounts;
use super::balance;
use super::cards::Behaviour;
use super::customers;
use super::errors::{ErrorType, Refusal};
use super::form::Form;
use super::ids;
use super::ledger::{Books, Effect, ListQuery};
use super::model::{Charge, PaymentIntent, Refund, RefundStatus, Status};
use super::render;

/// `POST /v1/refunds`: refunds all or a part of a captured charge.
pub(crate) fn create(form: &Form) -> Result<Effect, Refusal> {
    let amount = form.amount("amount")?;
    let reason = form.get("reason").map(str::to_owned);
    const REASONS: [&str; 3] = ["duplicate", "fraudulent", "requested_by_customer"];
    if reason
        .as_deref()
        .is_some_and(|reason| !REASONS.contains(&reason))
    {
        let message = format!("Invalid reason: must be one of {}.", REASONS.join(", "));
        return Err(Refusal::parameter("parameter_unknown", "reason", message));
    }
    let metadata = form.metadata()?;
    let by_charge = form.get("charge").map(str::to_owned);
    let by_intent = form.get("payment_intent").map(str::to_owned);
    if by_charge.is_none() && by_intent.is_none() {
        let message = "One of the following params should be provided for this request: \
                       payment_intent or charge.";
        return Err(Refusal::parameter(
            "parameter_missing",
            "payment_intent",
            message,
        ));
    }
    Ok(Box::new(move |books| {
        books.has_room()?;
        let (intent, charge) = refundable(books, by_intent.as_deref(), by_charge.as_deref())?;
        let amount = within_cap(intent, charge, amount)?;
        let waits_for_balance = !balance::covers(books, &intent.currency, amount);
        let refund = Refund {
            id: ids::refund(),
            payment_intent: intent.id.clone(),
            charge: charge.id.clone(),
            amount,
            currency: intent.currency.clone(),
            status: first_status(charge, waits_for_balance),
            reason,
            metadata,
            created: books.now(),
            waits_for_balance,
        };
        if !waits_for_balance {
            balance::add(books, &refund.currency, -amount);
        }
        let answer = render::refund(&refund);
        change_refunded(books, &refund, amount);
        books.report("refund.created", answer.clone());
        books.emit_charge("charge.refunded", &refund.charge);
        books.refunds.insert(refund);
        Ok(answer)
    }))
}

/// `GET /v1/refunds/{id}`: returns a refund.
pub(crate) fn retrieve(id: String) -> Effect {
    Box::new(move |books| {
        let refund = books.refunds.get(&id);
        refund
            .map(render::refund)
            .ok_or_else(|| Refusal::missing("refund", &id, "id"))
    })
}

/// `POST /v1/refunds/{id}`: updates a refund's metadata.
pub(crate) fn update(id: String, form: &Form) -> Result<Effect, Refusal> {
    form.metadata()?;
    let metadata = form.nested("metadata");
    Ok(Box::new(move |books| {
        let Some(refund) = books.refunds.get_mut(&id) else {
            return Err(Refusal::missing("refund", &id, "id"));
        };
        customers::change_metadata(&mut refund.metadata, metadata);
        let shown = render::refund(refund);
        books.report("refund.updated", shown.clone());
        Ok(shown)
    }))
}

/// `GET /v1/refunds`: lists refunds.
pub(crate) fn list(form: &Form) -> Result<Effect, Refusal> {
    let query = ListQuery::parse("/v1/refunds", form)?;
    let by_charge = form.get("charge").map(str::to_owned);
    let by_intent = form.get("payment_intent").map(str::to_owned);
    Ok(Box::new(move |books| {
        let wanted = |refund: &Refund| {
            by_charge
                .as_ref()
                .is_none_or(|charge| *charge == refund.charge)
                && by_intent
                    .as_ref()
                    .is_none_or(|intent| *intent == refund.payment_intent)
        };
        books.refunds.page(&query, wanted, render::refund)
    }))
}

/// Returns the later outcome of a refund that did not settle at once.
pub(crate) fn late_end(books: &Books, refund: &str) -> Option<RefundStatus> {
    let refund = books.refunds.get(refund)?;
    if refund.waits_for_balance {
        return None;
    }
    match books
        .charges
        .get(&refund.charge)?
        .payment_method
        .card
        .behaviour
    {
        Behaviour::RefundsLate => Some(RefundStatus::Succeeded),
        Behaviour::RefundFails => Some(RefundStatus::Failed),
        _ => None,
    }
}

/// Settles a refund; a failed one no longer counts as refunded.
pub(crate) fn settle(books: &mut Books, id: &str, end: RefundStatus) {
    let Some(refund) = books.refunds.get_mut(id) else {
        return;
    };
    refund.status = end;
    refund.waits_for_balance = false;
    let refund = refund.clone();
    let object = render::refund(&refund);
    if end == RefundStatus::Failed {
        balance::add(books, &refund.currency, refund.amount);
        change_refunded(books, &refund, -refund.amount);
        books.report("refund.failed", object.clone());
    }
    books.report("refund.updated", object.clone());
    books.report("charge.refund.updated", object);
}

fn refundable<'books>(
    books: &'books Books,
    by_intent: Option<&str>,
    by_charge: Option<&str>,
) -> Result<(&'books PaymentIntent, &'books Charge), Refusal> {
    if let Some(id) = by_charge {
        let charge = books
            .charges
            .get(id)
            .ok_or_else(|| Refusal::missing("charge", id, "charge"))?;
        return Ok((books.intent(&charge.payment_intent)?, charge));
    }
    let id = by_intent.unwrap_or_default();
    let intent = books
        .intents
        .get(id)
        .ok_or_else(|| Refusal::missing("payment_intent", id, "payment_intent"))?;
    let charge = intent
        .latest_charge
        .as_ref()
        .and_then(|charge| books.charges.get(charge));
    let charge = charge.ok_or_else(|| nothing_captured(intent))?;
    Ok((intent, charge))
}

fn nothing_captured(intent: &PaymentIntent) -> Refusal {
    let message = format!(
        "This PaymentIntent ({}) does not have a successful charge to refund.",
        intent.id
    );
    Refusal::unexpected_state(message, render::payment_intent(intent, None))
}

/// Returns the amount to refund: by default all that is left, which is also the cap.
fn within_cap(
    intent: &PaymentIntent,
    charge: &Charge,
    wanted: Option<i64>,
) -> Result<i64, Refusal> {
    if intent.status != Status::Succeeded || charge.amount_captured == 0 {
        return Err(nothing_captured(intent));
    }
    let left = charge.amount_captured - charge.amount_refunded;
    if left == 0 {
        let message = format!("Charge {} has already been refunded.", charge.id);
        return Err(Refusal::executed(400, ErrorType::InvalidRequest, message)
            .code("charge_already_refunded"));
    }
    let amount = wanted.unwrap_or(left);
    if amount > left {
        let message = format!(
            "Refund amount ({amount} {currency}) is greater than unrefunded amount on charge \
             ({left} {currency})",
            currency = charge.currency
        );
        return Err(Refusal::executed(400, ErrorType::InvalidRequest, message)
            .with("param", "amount".into()));
    }
    amounts::part("amount", amount, &charge.currency)?;
    Ok(amount)
}

fn first_status(charge: &Charge, waits_for_balance: bool) -> RefundStatus {
    if waits_for_balance {
        return RefundStatus::Pending;
    }
    match charge.payment_method.card.behaviour {
        Behaviour::RefundsLate => RefundStatus::Pending,
        _ => RefundStatus::Succeeded,
    }
}

fn change_refunded(books: &mut Books, refund: &Refund, by: i64) {
    let charge = books
        .charges
        .get_mut(&refund.charge)
        .expect("a charge is never removed");
    charge.amount_refunded += by;
}
