//! `POST /v1/payment_intents/{id}`: changes to an intent before it is paid.

use std::collections::BTreeMap;

use super::amounts;
use super::customers;
use super::errors::Refusal;
use super::form::Form;
use super::ledger::{Books, Effect};
use super::model::{FutureUsage, PaymentIntent, Status};
use super::payment_intents::future_usage;
use super::payment_methods::Means;

/// Changes to a PaymentIntent; `None` leaves a field as it is.
struct Changes {
    amount: Option<i64>,
    customer: Option<String>,
    /// The inner `None` unsets it.
    usage: Option<Option<FutureUsage>>,
    /// The inner `None` unsets it.
    method: Option<Option<Means>>,
    /// Empty values remove their keys.
    metadata: BTreeMap<String, String>,
    description: Option<String>,
}

impl Changes {
    /// Returns the first changed parameter that is immutable once the intent is paid.
    fn restricted(&self) -> Option<&'static str> {
        [
            ("amount", self.amount.is_some()),
            ("customer", self.customer.is_some()),
            ("payment_method", self.method.is_some()),
            ("setup_future_usage", self.usage.is_some()),
        ]
        .into_iter()
        .find_map(|(name, is_given)| is_given.then_some(name))
    }
}

/// `POST /v1/payment_intents/{id}`: updates an intent.
pub(crate) fn update(id: String, form: &Form) -> Result<Effect, Refusal> {
    let usage = form.given("setup_future_usage");
    let method = match form.given("payment_method") {
        Some("") => Some(None),
        _ => Means::of(form)?.map(Some),
    };
    // Checks the bounds only: it drops empty values, which matter here.
    form.metadata()?;
    let changes = Changes {
        amount: form.amount("amount")?,
        customer: form.get("customer").map(str::to_owned),
        usage: usage.map(|text| future_usage(Some(text))).transpose()?,
        method,
        metadata: form.nested("metadata"),
        description: form.given("description").map(str::to_owned),
    };
    Ok(Box::new(move |books| {
        may_change(books, &id, &changes)?;
        apply(books, &id, changes)?;
        Ok(books.show(&id))
    }))
}

fn may_change(books: &Books, id: &str, changes: &Changes) -> Result<(), Refusal> {
    let intent = books.intent(id)?;
    let is_open = matches!(
        intent.status,
        Status::RequiresPaymentMethod | Status::RequiresConfirmation | Status::RequiresAction
    );
    if let Some(name) = changes.restricted().filter(|_| !is_open) {
        let message = format!(
            "This PaymentIntent's {name} could not be updated because it has a status of {}. You \
             may only update the {name} of a PaymentIntent with one of the following statuses: \
             requires_payment_method, requires_confirmation, requires_action.",
            intent.status.as_str()
        );
        return Err(Refusal::unexpected_state(message, books.show(id)));
    }
    if let Some(amount) = changes.amount {
        amounts::charge("amount", amount, &intent.currency)?;
    }
    let Some(customer) = &changes.customer else {
        return Ok(());
    };
    customers::named(books, customer)?;
    if intent.customer.as_ref().is_some_and(|now| now != customer) {
        let message = "You cannot modify `customer` on a PaymentIntent when it already has been \
                       set. To fulfill a payment with a different Customer, cancel this \
                       PaymentIntent and create a new one.";
        let code = "payment_intent_unexpected_state";
        return Err(Refusal::parameter(code, "customer", message));
    }
    Ok(())
}

fn apply(books: &mut Books, id: &str, changes: Changes) -> Result<(), Refusal> {
    let PaymentIntent { customer, .. } = books.intent(id)?;
    let customer = changes.customer.or_else(|| customer.clone());
    let method = match changes.method {
        Some(Some(means)) => Some(Some(means.for_payment(books, customer.as_deref())?)),
        Some(None) => Some(None),
        None => None,
    };
    let intent = books.known(id);
    intent.customer = customer;
    if let Some(method) = method {
        intent.status = match method {
            Some(_) => Status::RequiresConfirmation,
            None => Status::RequiresPaymentMethod,
        };
        intent.authentication_url = None;
        intent.payment_method = method;
    }
    if let Some(usage) = changes.usage {
        intent.setup_future_usage = usage;
    }
    intent.amount = changes.amount.unwrap_or(intent.amount);
    if let Some(text) = changes.description {
        intent.description = Some(text).filter(|text| !text.is_empty());
    }
    customers::change_metadata(&mut intent.metadata, changes.metadata);
    Ok(())
}
