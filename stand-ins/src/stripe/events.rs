//! Event log: the newest events, for listing and resending.

use std::collections::VecDeque;

use bytes::Bytes;
use serde_json::{Value, json};

use super::errors::Refusal;
use super::form::Form;
use super::ids;
use super::ledger::{Effect, ListQuery, News, first};
use super::version;
use super::webhooks::Webhooks;

/// Capacity of the log; the oldest are evicted. (Stripe retains events for 30 days.)
const MAX_EVENTS: usize = 10_000;
/// Maximum number of types in a list's filter, as at Stripe.
const MAX_TYPES: usize = 20;

/// An event as delivered to subscribed endpoints.
#[derive(Clone, Debug)]
pub struct SentEvent {
    /// `evt_…`.
    pub id: String,
    /// Stripe's event type.
    pub kind: String,
    /// In seconds since the Unix epoch.
    pub created: i64,
    /// Body, byte for byte.
    pub body: Bytes,
}

impl SentEvent {
    pub(crate) fn new(
        news: &News,
        created: i64,
        receivers: usize,
        request_id: &str,
        key: Option<&str>,
    ) -> Self {
        let id = ids::event();
        let envelope = json!({
            "id": id,
            "object": "event",
            "api_version": version::DEFAULT,
            "created": created,
            "data": { "object": news.object },
            "livemode": false,
            "pending_webhooks": receivers,
            "request": { "id": request_id, "idempotency_key": key },
            "type": news.kind,
        });
        Self {
            id,
            kind: news.kind.to_owned(),
            created,
            body: Bytes::from(envelope.to_string()),
        }
    }

    fn show(&self) -> Value {
        serde_json::from_slice(&self.body).expect("it was made of JSON")
    }
}

/// The newest events, oldest first.
#[derive(Debug, Default)]
pub(crate) struct EventLog(VecDeque<SentEvent>);

impl EventLog {
    pub(crate) fn add(&mut self, event: SentEvent) {
        if self.0.len() == MAX_EVENTS {
            self.0.pop_front();
        }
        self.0.push_back(event);
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &SentEvent> {
        self.0.iter()
    }

    pub(crate) fn get(&self, id: &str) -> Option<&SentEvent> {
        self.0.iter().rev().find(|event| event.id == id)
    }

    /// Returns a page of events, filtered by type if any are given, newest first.
    fn page(&self, query: &ListQuery, kinds: &[String]) -> Result<Value, Refusal> {
        let newer = match &query.starting_after {
            None => 0,
            Some(id) => {
                let place = self.0.iter().rev().position(|event| event.id == *id);
                place.ok_or_else(|| Refusal::missing("event", id, "starting_after"))? + 1
            }
        };
        let wanted = |event: &&SentEvent| {
            query.covers(event.created) && (kinds.is_empty() || kinds.contains(&event.kind))
        };
        let matching = self.0.iter().rev().skip(newer).filter(wanted);
        let (data, has_more) = first(matching, query.limit, SentEvent::show);
        Ok(query.answer(&data, has_more))
    }
}

/// `GET /v1/events/{id}`: returns an event.
pub(crate) fn retrieve(webhooks: &Webhooks, id: String) -> Effect {
    let webhooks = webhooks.clone();
    Box::new(move |_| {
        let log = webhooks.log();
        let event = log.get(&id).map(SentEvent::show);
        event.ok_or_else(|| Refusal::missing("event", &id, "id"))
    })
}

/// `GET /v1/events`: lists events.
pub(crate) fn list(webhooks: &Webhooks, form: &Form) -> Result<Effect, Refusal> {
    let query = ListQuery::parse("/v1/events", form)?;
    let one = form.get("type").map(str::to_owned);
    let many: Vec<_> = form.nested("types").into_values().collect();
    if one.is_some() && !many.is_empty() || many.len() > MAX_TYPES {
        let message = "You may pass either the type or the types parameter, and up to 20 types.";
        return Err(Refusal::parameter("parameter_unknown", "types", message));
    }
    let kinds: Vec<_> = one.into_iter().chain(many).collect();
    let webhooks = webhooks.clone();
    Ok(Box::new(move |_| webhooks.log().page(&query, &kinds)))
}
