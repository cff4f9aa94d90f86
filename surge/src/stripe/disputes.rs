//! Disputes: opened by a test call, listed by `GET /v1/disputes`.

use serde_json::Value;

use super::errors::Refusal;
use super::form::Form;
use super::ids;
use super::ledger::{Books, Effect, ListQuery};
use super::model::Dispute;
use super::render;

/// The buyer asks the bank for the money of a captured charge.
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
    let dispute = Dispute {
        id: ids::dispute(),
        payment_intent: payment_intent.to_owned(),
        charge: charge.id.clone(),
        amount: charge.amount_captured,
        currency: charge.currency.clone(),
        created: books.now(),
    };
    let object = render::dispute(&dispute);
    books.report("charge.dispute.created", object.clone());
    books.disputes.insert(dispute);
    Ok(object)
}

/// `GET /v1/disputes`
pub(crate) fn list(form: &Form) -> Result<Effect, Refusal> {
    let query = ListQuery::parse("/v1/disputes", form)?;
    Ok(Box::new(move |books| {
        books.disputes.page(&query, |_| true, render::dispute)
    }))
}
