//! `GET /v1/payment_intents/search` and Stripe's query language. Unlike Stripe's index, which lags
//! by up to a minute, this search is always up to date.

mod query;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::json;

use super::errors::Refusal;
use super::form::Form;
use super::ledger::{Effect, limit};
use super::model::PaymentIntent;
use super::render;
use query::{Field, Query, Value};

const URL: &str = "/v1/payment_intents/search";

/// `GET /v1/payment_intents/search`: returns a page of matching intents.
pub(crate) fn payment_intents(form: &Form) -> Result<Effect, Refusal> {
    let query = Query::parse(form.required("query")?, is_known)?;
    let limit = limit(form)?;
    let after = form.get("page").map(last_seen).transpose()?;
    Ok(Box::new(move |books| {
        let wanted = |intent: &PaymentIntent| query.covers(|field| value(intent, field));
        let found = books.intents.found(after.as_deref(), limit, wanted);
        let (found, has_more) = found.ok_or_else(wrong_page)?;
        let last = found.last().filter(|_| has_more);
        let next_page = last.map(|intent| BASE64_URL_SAFE_NO_PAD.encode(&intent.id));
        let data: Vec<_> = found
            .into_iter()
            .map(|intent| render::payment_intent(intent, None))
            .collect();
        Ok(json!({
            "object": "search_result",
            "url": URL,
            "has_more": has_more,
            "next_page": next_page,
            "data": data,
        }))
    }))
}

/// Returns whether Stripe can search PaymentIntents by this field.
fn is_known(field: &Field) -> bool {
    match field {
        Field::Metadata(_) => true,
        Field::Named(name) => {
            ["amount", "created", "currency", "customer", "status"].contains(&name.as_str())
        }
    }
}

fn value(intent: &PaymentIntent, field: &Field) -> Option<Value> {
    match field {
        Field::Metadata(key) => intent.metadata.get(key).cloned().map(Value::Text),
        Field::Named(name) => match name.as_str() {
            "amount" => Some(Value::Number(intent.amount)),
            "created" => Some(Value::Number(intent.created.timestamp())),
            "currency" => Some(Value::Text(intent.currency.clone())),
            "customer" => intent.customer.clone().map(Value::Text),
            "status" => Some(Value::Text(intent.status.as_str().to_owned())),
            _ => None,
        },
    }
}

fn last_seen(page: &str) -> Result<String, Refusal> {
    let id = BASE64_URL_SAFE_NO_PAD.decode(page).ok();
    id.and_then(|id| String::from_utf8(id).ok())
        .ok_or_else(wrong_page)
}

fn wrong_page() -> Refusal {
    let message = "Invalid page: use the next_page of the page before.";
    Refusal::parameter("parameter_unknown", "page", message)
}
