//! Endpoints beyond Stripe's: the buyer's bank, disputes, and fault injection.

use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Response, header};
use axum::response::IntoResponse;

use super::{Api, bank};
use crate::stripe::answer::Answer;
use crate::stripe::attempts;
use crate::stripe::disputes;
use crate::stripe::errors::Refusal;
use crate::stripe::faults::FaultRules;
use crate::stripe::form::Form;

/// `GET /test/payment_intents/{id}/authenticate`: page of the buyer's bank.
pub(crate) async fn ask(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Response<Body> {
    bank::page(api.ledger.payment_intent(&id).as_ref())
}

/// `POST /test/payment_intents/{id}/authenticate` with `outcome` `success` or `fail`.
pub(crate) async fn authenticate(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let passed = match outcome(&headers, &body, ["success", "fail"]) {
        Ok(passed) => passed,
        Err(refusal) => return Answer::of(&Err(refusal)).into_response(),
    };
    let effect = Box::new({
        let id = id.clone();
        move |books: &mut _| attempts::authenticate(books, &id, passed)
    });
    let (result, news) = api.change_books(effect);
    let answer = Answer::of(&result);
    api.webhooks.publish(news, &answer.request_id, None);
    if !wants_page(&headers) {
        return answer.into_response();
    }
    match api.ledger.payment_intent(&id) {
        Some(intent) if result.is_ok() => bank::back(&intent, passed),
        intent => bank::nothing_to_do(intent.as_ref()),
    }
}

/// `POST /test/payment_intents/{id}/dispute`: opens a dispute.
pub(crate) async fn dispute(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    if !api.keys.is_account(&headers) {
        return Answer::of(&Err(Refusal::no_key())).into_response();
    }
    let effect = Box::new(move |books: &mut _| disputes::open(books, &id));
    let (result, news) = api.change_books(effect);
    let answer = Answer::of(&result);
    api.webhooks.publish(news, &answer.request_id, None);
    answer.into_response()
}

/// `POST /test/disputes/{id}/close` with `outcome` `won` or `lost`: closes a dispute.
pub(crate) async fn close_dispute(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    if !api.keys.is_account(&headers) {
        return Answer::of(&Err(Refusal::no_key())).into_response();
    }
    let is_won = match outcome(&headers, &body, ["won", "lost"]) {
        Ok(is_won) => is_won,
        Err(refusal) => return Answer::of(&Err(refusal)).into_response(),
    };
    let effect = Box::new(move |books: &mut _| disputes::close(books, &id, is_won));
    let (result, news) = api.change_books(effect);
    let answer = Answer::of(&result);
    api.webhooks.publish(news, &answer.request_id, None);
    answer.into_response()
}

/// `POST /test/faults`: adds rules.
pub(crate) async fn add_faults(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    if !api.keys.is_account(&headers) {
        return Answer::of(&Err(Refusal::no_key())).into_response();
    }
    let rules: FaultRules = match serde_json::from_slice(&body) {
        Ok(rules) => rules,
        Err(error) => {
            return Answer::of(&Err(Refusal::malformed(error.to_string()))).into_response();
        }
    };
    rules.api.into_iter().for_each(|rule| api.faults.add(rule));
    rules
        .webhooks
        .into_iter()
        .for_each(|rule| api.webhooks.faults().add(rule));
    in_force(&api)
}

/// `GET /test/faults`: returns the rules that can still fire.
pub(crate) async fn list_faults(State(api): State<Arc<Api>>, headers: HeaderMap) -> Response<Body> {
    if !api.keys.is_account(&headers) {
        return Answer::of(&Err(Refusal::no_key())).into_response();
    }
    in_force(&api)
}

/// `DELETE /test/faults`: removes all rules.
pub(crate) async fn clear_faults(
    State(api): State<Arc<Api>>,
    headers: HeaderMap,
) -> Response<Body> {
    if !api.keys.is_account(&headers) {
        return Answer::of(&Err(Refusal::no_key())).into_response();
    }
    api.faults.clear();
    api.webhooks.faults().clear();
    in_force(&api)
}

fn in_force(api: &Api) -> Response<Body> {
    let rules = FaultRules {
        api: api.faults.rules(),
        webhooks: api.webhooks.faults().rules(),
    };
    Json(rules).into_response()
}

/// Parses the body's `outcome`: `true` for the first word, `false` for the second.
fn outcome(headers: &HeaderMap, body: &[u8], [yes, no]: [&str; 2]) -> Result<bool, Refusal> {
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    let outcome = if is_json {
        let body: serde_json::Value =
            serde_json::from_slice(body).map_err(|error| Refusal::malformed(error.to_string()))?;
        body["outcome"].as_str().map(str::to_owned)
    } else {
        Form::parse("", body)?.get("outcome").map(str::to_owned)
    };
    match outcome.as_deref() {
        Some(outcome) if outcome == yes => Ok(true),
        Some(outcome) if outcome == no => Ok(false),
        _ => Err(Refusal::parameter(
            "parameter_unknown",
            "outcome",
            format!("Invalid outcome: must be one of {yes} or {no}."),
        )),
    }
}

fn wants_page(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"))
}
