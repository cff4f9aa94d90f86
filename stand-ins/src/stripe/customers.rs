//! `POST|GET|DELETE /v1/customers…`: customers, who own saved cards.

use std::collections::BTreeMap;

use super::errors::Refusal;
use super::form::Form;
use super::ids;
use super::ledger::{Books, Effect, ListQuery};
use super::model::Customer;
use super::render;

/// `POST /v1/customers`: creates a customer.
pub(crate) fn create(form: &Form) -> Result<Effect, Refusal> {
    let metadata = form.metadata()?;
    let text = |name| form.get(name).map(str::to_owned);
    let (email, name, description) = (text("email"), text("name"), text("description"));
    Ok(Box::new(move |books| {
        books.has_room()?;
        let customer = Customer {
            id: ids::customer(),
            metadata,
            created: books.now(),
            is_deleted: false,
            email,
            name,
            description,
        };
        let shown = render::customer(&customer);
        books.customers.insert(customer);
        books.report("customer.created", shown.clone());
        Ok(shown)
    }))
}

/// `POST /v1/customers/{id}`: updates a customer.
pub(crate) fn update(id: String, form: &Form) -> Result<Effect, Refusal> {
    form.metadata()?;
    let metadata = form.nested("metadata");
    let text = |name| form.given(name).map(str::to_owned);
    let (email, name, description) = (text("email"), text("name"), text("description"));
    Ok(Box::new(move |books| {
        known(books, &id)?;
        let customer = books.customers.get_mut(&id).expect("it was just found");
        change_metadata(&mut customer.metadata, metadata);
        for (field, given) in [
            (&mut customer.email, email),
            (&mut customer.name, name),
            (&mut customer.description, description),
        ] {
            if let Some(text) = given {
                *field = Some(text).filter(|text| !text.is_empty());
            }
        }
        let shown = render::customer(customer);
        books.report("customer.updated", shown.clone());
        Ok(shown)
    }))
}

/// Merges metadata; an empty value removes its key.
pub(crate) fn change_metadata(
    metadata: &mut BTreeMap<String, String>,
    given: BTreeMap<String, String>,
) {
    for (key, value) in given {
        if value.is_empty() {
            metadata.remove(&key);
        } else {
            metadata.insert(key, value);
        }
    }
}

/// `GET /v1/customers/{id}`: returns a customer.
pub(crate) fn retrieve(id: String) -> Effect {
    Box::new(move |books| match books.customers.get(&id) {
        Some(customer) => Ok(render::customer(customer)),
        None => Err(Refusal::missing("customer", &id, "id")),
    })
}

/// `DELETE /v1/customers/{id}`: deletes a customer and detaches its cards.
pub(crate) fn delete(id: String) -> Effect {
    Box::new(move |books| {
        known(books, &id)?;
        let customer = books.customers.get_mut(&id).expect("it was just found");
        let before = render::customer(customer);
        customer.is_deleted = true;
        let shown = render::customer(customer);
        for method in books.methods.iter_mut() {
            if method.customer.as_deref() == Some(id.as_str()) {
                method.customer = None;
                method.is_spent = true;
            }
        }
        books.report("customer.deleted", before);
        Ok(shown)
    })
}

/// `GET /v1/customers`: lists customers.
pub(crate) fn list(form: &Form) -> Result<Effect, Refusal> {
    let query = ListQuery::parse("/v1/customers", form)?;
    let email = form.get("email").map(str::to_owned);
    Ok(Box::new(move |books| {
        let wanted = |customer: &Customer| {
            !customer.is_deleted && (email.is_none() || customer.email == email)
        };
        books.customers.page(&query, wanted, render::customer)
    }))
}

/// Finds the customer in a request's path; 404 without one.
pub(crate) fn known<'books>(books: &'books Books, id: &str) -> Result<&'books Customer, Refusal> {
    find(books, id).ok_or_else(|| Refusal::missing("customer", id, "customer"))
}

/// Finds the customer in a request's parameters; 400 without one.
pub(crate) fn named<'books>(books: &'books Books, id: &str) -> Result<&'books Customer, Refusal> {
    find(books, id).ok_or_else(|| Refusal::missing_named("customer", id, "customer"))
}

fn find<'books>(books: &'books Books, id: &str) -> Option<&'books Customer> {
    let customer = books.customers.get(id)?;
    (!customer.is_deleted).then_some(customer)
}
