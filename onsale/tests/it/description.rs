//! Validates answers against docs/openapi.json: each has a documented status, type and schema, and
//! no undocumented fields.

use std::collections::BTreeSet;
use std::sync::Mutex;

use jsonschema::Draft;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use url::Url;

use platform::sync::MutexExt as _;

/// A value of `x-onsale-listeners`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Listener {
    Public,
    Internal,
}

/// A method and a path of the document.
pub(crate) type Operation = (String, String);

/// The document, and the differences found.
pub(crate) struct Description {
    document: Value,
    broken: Mutex<Vec<String>>,
    succeeded: Mutex<BTreeSet<Operation>>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// Returns the body, asserting the status.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        self.body
    }
}

impl Description {
    /// Loads the repository's document.
    pub(crate) fn read() -> Self {
        let document = include_str!("../../../docs/openapi.json");
        Self {
            document: serde_json::from_str(document).expect("the document is JSON"),
            broken: Mutex::default(),
            succeeded: Mutex::default(),
        }
    }

    /// The differences found.
    pub(crate) fn broken(&self) -> Vec<String> {
        let broken = self.broken.lock_unpoisoned();
        broken.clone()
    }

    /// The operations that never succeeded.
    pub(crate) fn unseen(&self) -> BTreeSet<Operation> {
        let succeeded = self.succeeded.lock_unpoisoned();
        let paths = self.document["paths"].as_object().expect("paths");
        let all = paths.iter().flat_map(|(path, operations)| {
            let methods = operations.as_object().expect("operations").keys();
            methods.map(move |method| (method.to_uppercase(), path.clone()))
        });
        all.filter(|operation| !succeeded.contains(operation))
            .collect()
    }

    /// Sends a request to `path`, whose parameters are filled with `ids` in order, and validates
    /// its answer.
    pub(crate) async fn call(
        &self,
        at: (&reqwest::Client, Listener, &Url),
        method: &Method,
        path: &str,
        ids: &[String],
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Answer {
        let (client, listener, base) = at;
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut url = base.join(&filled(path, ids)).expect("a path");
        url.set_query(Some(query).filter(|query| !query.is_empty()));
        let request = with(client.request(method.clone(), url)).build();
        let request = request.expect("a request");
        let sent = request.body().and_then(reqwest::Body::as_bytes);
        let sent = sent.and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok());
        let answer = client.execute(request).await.expect("an answer");
        let (status, headers) = (answer.status(), answer.headers().clone());
        let is_stream = kind_of(&headers) == "text/event-stream";
        let body = if is_stream {
            Value::String(String::new())
        } else {
            let bytes = answer.bytes().await.expect("a whole answer");
            serde_json::from_slice(&bytes).unwrap_or(Value::Null)
        };
        let answer = Answer {
            status,
            headers,
            body,
        };
        let found = self.disagreements(listener, method, path, &answer, sent.as_ref());
        let place = format!("{method} {path} {status}");
        let found = found
            .into_iter()
            .map(|what| format!("{place}: {what}\n  {}", answer.body));
        self.broken.lock_unpoisoned().extend(found);
        answer
    }

    /// The differences between an answer and the document.
    fn disagreements(
        &self,
        listener: Listener,
        method: &Method,
        path: &str,
        answer: &Answer,
        sent: Option<&Value>,
    ) -> Vec<String> {
        let name = method.as_str().to_lowercase();
        let operation = &self.document["paths"][path][&name];
        if operation.is_null() {
            return vec!["no such operation".to_owned()];
        }
        let listener = match listener {
            Listener::Public => json!("public"),
            Listener::Internal => json!("internal"),
        };
        let listeners = operation["x-onsale-listeners"].as_array();
        if !listeners.is_some_and(|all| all.contains(&listener)) {
            return vec![format!("not on the listener {listener}")];
        }
        let mut broken = Vec::new();
        if answer.status.is_success() {
            let seen = (method.to_string(), path.to_owned());
            let mut succeeded = self.succeeded.lock_unpoisoned();
            succeeded.insert(seen);
            if let Some(sent) = sent {
                let content = &operation["requestBody"]["content"]["application/json"];
                let errors = self.errors(&content["schema"], sent);
                broken.extend(errors.into_iter().map(|error| format!("request {error}")));
            }
        }
        let described = self.resolved(&operation["responses"][answer.status.as_str()]);
        if described.is_null() {
            broken.push("no such status".to_owned());
            return broken;
        }
        broken.extend(self.wrong_headers(&described["headers"], &answer.headers));
        broken.extend(self.wrong_body(&described["content"], answer));
        broken
    }

    fn wrong_body(&self, described: &Value, answer: &Answer) -> Vec<String> {
        let kind = kind_of(&answer.headers);
        let Some(contents) = described.as_object() else {
            let is_empty = answer.body.is_null() && kind.is_empty();
            let unexpected = (!is_empty).then(|| "a body where none is described".to_owned());
            return unexpected.into_iter().collect();
        };
        match contents.get(kind) {
            Some(content) => self.errors(&content["schema"], &answer.body),
            None => vec![format!("a body of the type {kind:?}")],
        }
    }

    /// Headers that are not as documented; a missing one may belong to other answers.
    fn wrong_headers(&self, described: &Value, headers: &HeaderMap) -> Vec<String> {
        let described = described.as_object().into_iter().flatten();
        let wrong = described.filter_map(|(name, header)| {
            let value = headers.get(name)?.to_str().unwrap_or_default();
            let schema = &self.resolved(header)["schema"];
            let value = if schema["type"] == "integer" {
                value.parse::<i64>().map_or(json!(value), |n| json!(n))
            } else {
                json!(value)
            };
            let errors = self.errors(schema, &value);
            (!errors.is_empty()).then(|| format!("header {name}: {}", errors.join("; ")))
        });
        wrong.collect()
    }

    /// Resolves a `$ref`; any other value is returned as it is.
    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        let Some(reference) = value["$ref"].as_str() else {
            return value;
        };
        let pointer = reference.strip_prefix('#').unwrap_or(reference);
        self.document.pointer(pointer).unwrap_or(&Value::Null)
    }

    fn errors(&self, schema: &Value, instance: &Value) -> Vec<String> {
        if schema.is_null() {
            return vec!["no schema".to_owned()];
        }
        let mut root = schema.clone();
        root["components"] = json!({ "schemas": self.document["components"]["schemas"] });
        close(&mut root);
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .should_validate_formats(true)
            .build(&root)
            .expect("a schema");
        let errors = validator.iter_errors(instance);
        let errors =
            errors.map(|error| format!("at {:?}: {error}", error.instance_path().as_str()));
        errors.collect()
    }
}

/// Closes all object schemas, so that undocumented fields are differences.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            let is_closed = fields.contains_key("additionalProperties");
            if fields.get("properties").is_some_and(Value::is_object) && !is_closed {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

/// The media type of a body, without parameters.
fn kind_of(headers: &HeaderMap) -> &str {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim()
}

fn filled(path: &str, ids: &[String]) -> String {
    let mut ids = ids.iter();
    let parts = path.split('/').map(|part| {
        if part.starts_with('{') {
            ids.next().expect("an id for each place").as_str()
        } else {
            part
        }
    });
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every object in `value` with its path.
    fn objects<'a>(value: &'a Value, path: &str, found: &mut Vec<(String, &'a Value)>) {
        match value {
            Value::Object(fields) => {
                found.push((path.to_owned(), value));
                for (name, field) in fields {
                    objects(field, &format!("{path}/{name}"), found);
                }
            }
            Value::Array(items) => {
                for (n, item) in items.iter().enumerate() {
                    objects(item, &format!("{path}/{n}"), found);
                }
            }
            _ => {}
        }
    }

    fn all_objects(document: &Value) -> Vec<(String, &Value)> {
        let mut found = Vec::new();
        objects(document, "", &mut found);
        found
    }

    fn operations(document: &Value) -> Vec<(String, &Value)> {
        let paths = document["paths"].as_object().expect("paths");
        let operations = paths.iter().flat_map(|(path, operations)| {
            let operations = operations.as_object().expect("operations");
            let named = operations.iter();
            named.map(move |(method, operation)| (format!("{method} {path}"), operation))
        });
        operations.collect()
    }

    fn words(value: &Value) -> &str {
        value.as_str().unwrap_or_default()
    }

    #[test]
    fn each_operation_is_named_described_and_filed_under_a_known_tag() {
        let document = Description::read().document;
        let tags = document["tags"].as_array().expect("tags");
        let known: BTreeSet<_> = tags.iter().map(|tag| words(&tag["name"])).collect();
        assert!(
            tags.iter()
                .all(|tag| !words(&tag["description"]).is_empty())
        );
        let mut ids = BTreeSet::new();
        for (name, operation) in operations(&document) {
            assert!(
                ids.insert(words(&operation["operationId"])),
                "{name}: its id"
            );
            for field in ["operationId", "summary", "description"] {
                assert!(!words(&operation[field]).is_empty(), "{name}: no {field}");
            }
            let filed = operation["tags"].as_array().expect("tags");
            assert_eq!(filed.len(), 1, "{name}");
            assert!(known.contains(words(&filed[0])), "{name}: {}", filed[0]);
            let responses = operation["responses"].as_object().expect("responses");
            let is_refused = responses.keys().any(|status| status.starts_with('4'));
            assert!(is_refused, "{name}: nothing is ever wrong");
            if operation["requestBody"].is_object() {
                for status in ["413", "415"] {
                    let is_raw = name.ends_with("/webhooks/stripe");
                    assert!(
                        is_raw || responses.contains_key(status),
                        "{name}: no {status}"
                    );
                }
            }
        }
    }

    #[test]
    fn generators_find_a_named_type_and_a_parameter_for_everything() {
        let document = Description::read().document;
        for (path, object) in all_objects(&document) {
            assert_ne!(
                object["items"], false,
                "{path}: tools want a schema or none"
            );
            for choice in ["oneOf", "anyOf"] {
                let alternatives = object[choice].as_array().into_iter().flatten();
                for alternative in alternatives {
                    let is_typed =
                        alternative["$ref"].is_string() || !alternative["type"].is_null();
                    assert!(is_typed, "{path}: {choice} of {alternative}");
                }
            }
        }
        let queue_token = json!({ "$ref": "#/components/parameters/QueueToken" });
        for (name, operation) in operations(&document) {
            let body = &operation["requestBody"]["content"]["application/json"]["schema"];
            assert!(body.is_null() || body["$ref"].is_string(), "{name}: {body}");
            let security = operation["security"].as_array().expect("security");
            if security
                .iter()
                .any(|scheme| !scheme["queueToken"].is_null())
            {
                let parameters = operation["parameters"].as_array().expect("parameters");
                assert!(parameters.contains(&queue_token), "{name}: no queue token");
            }
        }
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_component_is_used() {
        let description = Description::read();
        let document = &description.document;
        let mut used = BTreeSet::new();
        for (path, object) in all_objects(document) {
            let Some(reference) = object["$ref"].as_str() else {
                continue;
            };
            assert!(
                !description.resolved(object).is_null(),
                "{path}: {reference}"
            );
            used.insert(reference.to_owned());
        }
        for kind in ["schemas", "responses", "parameters", "headers"] {
            for name in document["components"][kind].as_object().expect(kind).keys() {
                let reference = format!("#/components/{kind}/{name}");
                assert!(used.contains(&reference), "nothing uses {reference}");
            }
        }
    }

    fn problems(body: &Value) -> Vec<String> {
        let answer = Answer {
            status: StatusCode::OK,
            headers: HeaderMap::from_iter([(
                CONTENT_TYPE,
                "application/json".parse().expect("a header"),
            )]),
            body: body.clone(),
        };
        let path = "/api/events/{id}/availability";
        Description::read().disagreements(Listener::Public, &Method::GET, path, &answer, None)
    }

    #[test]
    fn what_is_missing_wrong_or_not_described_is_found() {
        let section = json!({
            "section_id": 1, "name": "A", "capacity": 2, "available": 1, "held": 1, "sold": 0
        });
        let good = json!({ "available": 1, "sections": [section] });
        assert_eq!(problems(&good), Vec::<String>::new());
        for (pointer, value) in [
            ("/available", json!("1")),
            ("/available", json!(-1)),
            ("/sections", Value::Null),
            ("/sections/0", json!({ "section_id": 1 })),
        ] {
            let mut bad = good.clone();
            *bad.pointer_mut(pointer).expect("it is there") = value;
            assert!(!problems(&bad).is_empty(), "{bad}");
        }
        let mut more = good.clone();
        more["sections"][0]["colour"] = json!("red");
        assert!(problems(&more)[0].contains("colour"), "{more}");
    }
}
