//! `POST|GET /v1/payment_methods…`: cards, saved for a customer or not.

use serde_json::Value;

use super::cards::Card;
use super::customers;
use super::errors::{ErrorType, Refusal};
use super::form::Form;
use super::ids;
use super::ledger::{Books, Effect, ListQuery};
use super::model::{PaymentIntent, PaymentMethod};
use super::render;

/// Payment method named in a request.
#[derive(Clone, Debug)]
pub(crate) enum Means {
    /// A test card, which becomes a new PaymentMethod.
    Card(Card),
    /// An existing PaymentMethod, by id.
    Known(String),
}

impl Means {
    /// Parses a PaymentMethod's id, a test token, or a test card number.
    pub(crate) fn of(form: &Form) -> Result<Option<Self>, Refusal> {
        if let Some(id) = form.get("payment_method") {
            return Ok(Some(Self::named(id)));
        }
        let card = Card::of_details(form, "payment_method_data[card]")?;
        Ok(card.map(Self::Card))
    }

    fn named(id: &str) -> Self {
        Card::of_method(id).map_or_else(|| Self::Known(id.to_owned()), Self::Card)
    }

    /// Returns the PaymentMethod if a payment by `customer` may use it.
    pub(crate) fn for_payment(
        self,
        books: &Books,
        customer: Option<&str>,
    ) -> Result<PaymentMethod, Refusal> {
        let id = match self {
            Self::Card(card) => return Ok(new(books, card)),
            Self::Known(id) => id,
        };
        let method = known(books, &id, "payment_method")?;
        let refuse = |message: String| {
            Err(Refusal::parameter(
                "payment_intent_invalid_parameter",
                "payment_method",
                message,
            ))
        };
        match &method.customer {
            _ if method.is_spent => refuse(format!(
                "The provided PaymentMethod ({id}) was used without being attached to a Customer, \
                 or was detached from one. It may not be used again."
            )),
            Some(owner) if Some(owner.as_str()) != customer => refuse(format!(
                "The PaymentMethod supplied ({id}) belongs to a Customer. Please include that \
                 Customer in the `customer` parameter on the PaymentIntent."
            )),
            _ => Ok(method.clone()),
        }
    }
}

/// `POST /v1/payment_methods`: creates a card.
pub(crate) fn create(form: &Form) -> Result<Effect, Refusal> {
    if form.required("type")? != "card" {
        let message = "Invalid type: this stand-in knows card.";
        return Err(Refusal::parameter("parameter_unknown", "type", message));
    }
    let card = Card::of_details(form, "card")?.ok_or_else(|| {
        let message = "Missing required param: card.";
        Refusal::parameter("parameter_missing", "card", message)
    })?;
    Ok(Box::new(move |books| {
        books.has_room()?;
        let method = new(books, card);
        let shown = render::payment_method(&method);
        books.methods.insert(method);
        Ok(shown)
    }))
}

/// `GET /v1/payment_methods/{id}`: returns a card.
pub(crate) fn retrieve(id: String) -> Effect {
    Box::new(move |books| match books.methods.get(&id) {
        Some(method) => Ok(render::payment_method(method)),
        None => Err(Refusal::missing("PaymentMethod", &id, "payment_method")),
    })
}

/// `POST /v1/payment_methods/{id}/attach`: saves a card for a customer.
pub(crate) fn attach(id: &str, form: &Form) -> Result<Effect, Refusal> {
    let means = Means::named(id);
    let customer = form.required("customer")?.to_owned();
    Ok(Box::new(move |books| {
        customers::named(books, &customer)?;
        books.has_room()?;
        let method = match means {
            Means::Card(card) => new(books, card),
            Means::Known(id) => match books.methods.get(&id) {
                Some(method) => method.clone(),
                None => return Err(Refusal::missing("PaymentMethod", &id, "payment_method")),
            },
        };
        if method.is_spent || method.customer.is_some() {
            let message = if method.is_spent {
                "This PaymentMethod was previously used without being attached to a Customer or \
                 was detached from a Customer, and may not be used again."
            } else {
                "The payment method you provided has already been attached to a customer."
            };
            return Err(Refusal::executed(400, ErrorType::InvalidRequest, message));
        }
        Ok(save(books, method, customer))
    }))
}

/// `POST /v1/payment_methods/{id}/detach`: removes a customer's card.
pub(crate) fn detach(id: String) -> Effect {
    Box::new(move |books| {
        let Some(method) = books.methods.get_mut(&id) else {
            return Err(Refusal::missing("PaymentMethod", &id, "payment_method"));
        };
        if method.customer.take().is_none() {
            let message = "The payment method you provided is not attached to a customer so \
                           detachment is impossible.";
            return Err(Refusal::executed(400, ErrorType::InvalidRequest, message));
        }
        method.is_spent = true;
        let shown = render::payment_method(method);
        books.report("payment_method.detached", shown.clone());
        Ok(shown)
    })
}

/// `GET /v1/customers/{id}/payment_methods`: lists a customer's cards.
pub(crate) fn list_of(customer: String, form: &Form) -> Result<Effect, Refusal> {
    let url = format!("/v1/customers/{customer}/payment_methods");
    let query = ListQuery::parse(url, form)?;
    let kind = form.get("type").map(str::to_owned);
    Ok(Box::new(move |books| {
        customers::known(books, &customer)?;
        let is_card = kind.as_deref().is_none_or(|kind| kind == "card");
        let wanted = |method: &PaymentMethod| {
            is_card && method.customer.as_deref() == Some(customer.as_str())
        };
        books.methods.page(&query, wanted, render::payment_method)
    }))
}

/// `GET /v1/payment_methods`: lists cards, of a customer or without one.
pub(crate) fn list(form: &Form) -> Result<Effect, Refusal> {
    let query = ListQuery::parse("/v1/payment_methods", form)?;
    let customer = form.get("customer").map(str::to_owned);
    let is_card = form.get("type").is_none_or(|kind| kind == "card");
    Ok(Box::new(move |books| {
        if let Some(customer) = &customer {
            customers::named(books, customer)?;
        }
        let wanted = |method: &PaymentMethod| is_card && method.customer == customer;
        books.methods.page(&query, wanted, render::payment_method)
    }))
}

/// Marks the method of an authorised payment: it is saved for the customer if that was requested,
/// and otherwise spent.
pub(crate) fn consume(books: &mut Books, intent: &str, method: PaymentMethod) -> PaymentMethod {
    if method.customer.is_some() {
        return method;
    }
    let PaymentIntent {
        customer,
        setup_future_usage,
        ..
    } = books.known(intent);
    let customer = customer.clone().filter(|_| setup_future_usage.is_some());
    let id = method.id.clone();
    match customer {
        Some(customer) => {
            save(books, method, customer);
            books.methods.get(&id).expect("it was just stored").clone()
        }
        None => {
            // A method without an entry can't be named again and needs none.
            if let Some(method) = books.methods.get_mut(&id) {
                method.is_spent = true;
            }
            method
        }
    }
}

fn save(books: &mut Books, mut method: PaymentMethod, customer: String) -> Value {
    method.customer = Some(customer);
    let shown = render::payment_method(&method);
    match books.methods.get_mut(&method.id) {
        Some(known) => *known = method,
        None => books.methods.insert(method),
    }
    books.report("payment_method.attached", shown.clone());
    shown
}

fn known<'books>(
    books: &'books Books,
    id: &str,
    param: &str,
) -> Result<&'books PaymentMethod, Refusal> {
    books
        .methods
        .get(id)
        .ok_or_else(|| Refusal::missing("PaymentMethod", id, param))
}

fn new(books: &Books, card: Card) -> PaymentMethod {
    PaymentMethod {
        id: ids::payment_method(),
        card,
        customer: None,
        created: books.now(),
        is_spent: false,
    }
}
