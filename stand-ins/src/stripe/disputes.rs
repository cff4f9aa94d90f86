//! Disputes: opened and closed by test endpoints, listed by `GET /v1/disputes`.

use serde_json::Value;

use super::errors::Refusal;
use super::form::Form;
use super::ids;
use super::ledger::{Books, Effect, ListQuery};
use super::model::{Dispute, DisputeStatus};
use super::render;

/// Opens a dispute of a captured charge.
pub(crate) fn open(books: &mut Books, payment_intent: &str) -> Result<Value, Refusal> {
    let intent = books.intent(payment_intent)?;
    let charge = intent
        .latest_charge
        .as_ref()
        .and_then(|id| books.charges.get(id))
        .filter(|charge| charge.amount_captured > 0);
    let Some(charge) = charge else {
        let message = "Only a captured charge can be disputed.";
        return Err(Refusal::unexpected_state(
            message,
            books.show(payment_intent),
        ));
    };
    let charge_id = charge.id.clone();
    let dispute = Dispute {
        id: ids::dispute(),
        payment_intent: payment_intent.to_owned(),
        charge: charge.id.clone(),
        amount: charge.amount_captured,
        currency: charge.currency.clone(),
        created: books.now(),
        status: DisputeStatus::NeedsResponse,
    };
    let object = render::dispute(&dispute);
    // The funds are withdrawn at once, whatever the outcome.
    books.report("charge.dispute.created", object.clone());
    books.report("charge.dispute.funds_withdrawn", object.clone());
    books.disputes.insert(dispute);
    let charge = books.charges.get_mut(&charge_id);
    charge.expect("it was just found").is_disputed = true;
    Ok(object)
}

/// Closes a dispute as won or lost.
pub(crate) fn close(books: &mut Books, id: &str, is_won: bool) -> Result<Value, Refusal> {
    let dispute = books
        .disputes
        .get_mut(id)
        .ok_or_else(|| Refusal::missing("dispute", id, "dispute"))?;
    if dispute.status != DisputeStatus::NeedsResponse {
        return Err(Refusal::malformed("This dispute is already closed."));
    }
    dispute.status = if is_won {
        DisputeStatus::Won
    } else {
        DisputeStatus::Lost
    };
    let object = render::dispute(dispute);
    books.report("charge.dispute.closed", object.clone());
    if is_won {
        books.report("charge.dispute.funds_reinstated", object.clone());
    }
    Ok(object)
}

/// `GET /v1/disputes`: lists disputes.
pub(crate) fn list(form: &Form) -> Result<Effect, Refusal> {
    let query = ListQuery::parse("/v1/disputes", form)?;
    Ok(Box::new(move |books| {
        books.disputes.page(&query, |_| true, render::dispute)
    }))
}
