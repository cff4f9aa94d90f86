//! The fields of an event that are read. Any signed body is accepted: only known fields are read,
//! each by itself, and only those are stored, so new shapes, fields of any type, text that
//! PostgreSQL can't store and deep nesting do no harm, and neither names nor addresses are stored.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

/// Longest id or type.
const MAX_WORD_BYTES: usize = 255;
/// The scalar fields of an object that are stored.
const FIELDS: [&str; 9] = [
    "object",
    "id",
    "status",
    "amount",
    "amount_received",
    "currency",
    "payment_intent",
    "failure_reason",
    "reason",
];
/// The metadata that is stored.
const METADATA: [&str; 2] = ["booking_id", "refund_id"];

/// The fields of an event with an id and a type.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fields {
    /// `evt_…`.
    pub id: String,
    /// Its type, such as `refund.updated`.
    pub kind: String,
    /// Creation time at Stripe, in Unix seconds.
    pub created: Option<i64>,
    /// `true` if it is about real money.
    pub is_live: Option<bool>,
    /// `true` if it is about an account connected to ours.
    pub is_of_another_account: bool,
    /// The stored fields of its object, in Stripe's shape; null when it has none.
    pub object: Value,
}

type Unparsed<'a> = HashMap<String, &'a RawValue>;

#[derive(Deserialize)]
struct Raw<'a>(#[serde(borrow)] Unparsed<'a>);

impl Fields {
    /// Reads a body; `None` for JSON that is no event with an id and a type.
    ///
    /// # Errors
    /// When it is not JSON.
    pub(super) fn read(body: &[u8]) -> serde_json::Result<Option<Self>> {
        let whole: &RawValue = serde_json::from_slice(body)?;
        Ok(Self::of(whole))
    }

    fn of(whole: &RawValue) -> Option<Self> {
        let event = unparsed(whole)?;
        let word = |name: &str| {
            let word = text(event.get(name)?)?;
            (1..=MAX_WORD_BYTES).contains(&word.len()).then_some(word)
        };
        let object = event
            .get("data")
            .and_then(|data| unparsed(data))
            .and_then(|data| unparsed(data.get("object")?))
            .map_or(Value::Null, |object| retained(&object));
        Some(Self {
            id: word("id")?,
            kind: word("type")?,
            created: event.get("created").and_then(|raw| scalar(raw)?.as_i64()),
            is_live: event.get("livemode").and_then(|raw| scalar(raw)?.as_bool()),
            is_of_another_account: event.get("account").is_some_and(|raw| raw.get() != "null"),
            object,
        })
    }
}

/// Selects the fields of an object that are stored.
fn retained(object: &Unparsed<'_>) -> Value {
    let mut retained = Map::new();
    for name in FIELDS {
        let value = object.get(name).and_then(|raw| scalar(raw));
        retained.extend(value.map(|value| (name.to_owned(), value)));
    }
    if let Some(metadata) = object.get("metadata").and_then(|raw| unparsed(raw)) {
        let ours = METADATA.iter().filter_map(|name| {
            let value = text(metadata.get(*name)?)?;
            Some(((*name).to_owned(), Value::String(value)))
        });
        retained.insert("metadata".to_owned(), Value::Object(ours.collect()));
    }
    let error = object
        .get("last_payment_error")
        .and_then(|raw| unparsed(raw));
    if let Some(message) = error.and_then(|error| text(error.get("message")?)) {
        let error = Map::from_iter([("message".to_owned(), Value::String(message))]);
        retained.insert("last_payment_error".to_owned(), Value::Object(error));
    }
    Value::Object(retained)
}

/// The fields of an object, unparsed; `None` when it is no object.
fn unparsed(raw: &RawValue) -> Option<Unparsed<'_>> {
    let Raw(fields) = serde_json::from_str(raw.get()).ok()?;
    Some(fields)
}

/// Parses a scalar; control characters of texts are removed.
fn scalar(raw: &RawValue) -> Option<Value> {
    match raw.get().bytes().next()? {
        b'{' | b'[' => None,
        b'"' => text(raw).map(Value::String),
        _ => serde_json::from_str(raw.get()).ok(),
    }
}

fn text(raw: &RawValue) -> Option<String> {
    let text: String = serde_json::from_str(raw.get()).ok()?;
    Some(text.replace(char::is_control, ""))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &str) -> Fields {
        let event = Fields::read(body.as_bytes()).unwrap();
        event.unwrap_or_else(|| panic!("no event: {body}"))
    }

    #[test]
    fn only_used_fields_are_retained() {
        let event = read(
            r#"{"id": "evt_1", "type": "charge.refunded", "created": 5, "livemode": false,
                "data": {"object": {"object": "charge", "id": "ch_1", "payment_intent": "pi_1",
                    "amount": 7, "billing_details": {"name": "Ada"}, "receipt_email": "a@b.example",
                    "metadata": {"booking_id": "b", "name": "Ada"},
                    "last_payment_error": {"message": "no", "code": "c"}}}}"#,
        );
        assert_eq!((event.created, event.is_live), (Some(5), Some(false)));
        let retained = json!({
            "object": "charge", "id": "ch_1", "payment_intent": "pi_1", "amount": 7,
            "metadata": { "booking_id": "b" }, "last_payment_error": { "message": "no" },
        });
        assert_eq!(event.object, retained);
    }

    #[test]
    fn shapes_and_texts_of_any_kind_do_no_harm() {
        let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
        for field in [
            r#""description": "\u0000""#.to_owned(),
            r#""description": "\ud800""#.to_owned(),
            format!(r#""lines": {deep}"#),
            r#""amount": {"is": "an object"}, "metadata": 7, "last_payment_error": []"#.to_owned(),
        ] {
            let body = format!(
                r#"{{"id": "evt_1", "type": "t", "created": "2026-11-27T00:00:00Z",
                     "data": {{"object": {{"id": "pi_1", {field}}}}}}}"#
            );
            let event = read(&body);
            assert_eq!(event.object["id"], "pi_1", "{field}");
            assert_eq!(event.created, None);
        }
        let event =
            read(r#"{"id": "evt\u0000_1", "type": "t", "data": {"object": {"id": "\ud800"}}}"#);
        assert_eq!((event.id.as_str(), &event.object), ("evt_1", &json!({})));
    }

    #[test]
    fn json_that_is_no_event_differs_from_what_is_no_json() {
        let long = format!(r#"{{"id": "{}", "type": "t"}}"#, "e".repeat(256));
        for body in [
            "7",
            "[]",
            "{}",
            r#"{"id": "evt_1"}"#,
            r#"{"id": 1, "type": "t"}"#,
            &long,
        ] {
            assert_eq!(Fields::read(body.as_bytes()).unwrap(), None, "{body}");
        }
        for body in [&b"{"[..], b"", b"\xff"] {
            assert!(Fields::read(body).is_err());
        }
    }
}
