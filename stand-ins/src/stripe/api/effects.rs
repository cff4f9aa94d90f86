//! Dispatch of operations to their effects.

use crate::stripe::auth::Caller;
use crate::stripe::errors::Refusal;
use crate::stripe::form::Form;
use crate::stripe::ledger::Effect;
use crate::stripe::operation::Operation;
use crate::stripe::webhooks::Webhooks;
use crate::stripe::{
    balance, customers, disputes, events, payment_intents, payment_methods, refunds, search,
    updates,
};

/// Validates the parameters and returns the request's effect on the books.
pub(super) fn of(
    operation: Operation,
    id: String,
    form: &Form,
    caller: Caller,
    webhooks: &Webhooks,
) -> Result<Effect, Refusal> {
    match operation {
        Operation::CreatePaymentIntent => payment_intents::create(form),
        Operation::RetrievePaymentIntent => Ok(payment_intents::retrieve(id, form, caller)),
        Operation::UpdatePaymentIntent => updates::update(id, form),
        Operation::ConfirmPaymentIntent => payment_intents::confirm(id, form, caller),
        Operation::CapturePaymentIntent => payment_intents::capture(id, form),
        Operation::CancelPaymentIntent => payment_intents::cancel(id, form),
        Operation::ListPaymentIntents => payment_intents::list(form),
        Operation::SearchPaymentIntents => search::payment_intents(form),
        Operation::CreateRefund => refunds::create(form),
        Operation::UpdateRefund => refunds::update(id, form),
        Operation::RetrieveRefund => Ok(refunds::retrieve(id)),
        Operation::ListRefunds => refunds::list(form),
        Operation::RetrieveCharge => Ok(payment_intents::retrieve_charge(id)),
        Operation::ListCharges => payment_intents::list_charges(form),
        Operation::ListDisputes => disputes::list(form),
        Operation::CreateCustomer => customers::create(form),
        Operation::UpdateCustomer => customers::update(id, form),
        Operation::RetrieveCustomer => Ok(customers::retrieve(id)),
        Operation::DeleteCustomer => Ok(customers::delete(id)),
        Operation::ListCustomers => customers::list(form),
        Operation::ListCustomerPaymentMethods => payment_methods::list_of(id, form),
        Operation::ListPaymentMethods => payment_methods::list(form),
        Operation::CreatePaymentMethod => payment_methods::create(form),
        Operation::RetrievePaymentMethod => Ok(payment_methods::retrieve(id)),
        Operation::AttachPaymentMethod => payment_methods::attach(&id, form),
        Operation::DetachPaymentMethod => Ok(payment_methods::detach(id)),
        Operation::RetrieveEvent => Ok(events::retrieve(webhooks, id)),
        Operation::ListEvents => events::list(webhooks, form),
        Operation::RetrieveBalance => Ok(balance::retrieve()),
        Operation::RetrieveAccount => Ok(balance::account()),
    }
}
