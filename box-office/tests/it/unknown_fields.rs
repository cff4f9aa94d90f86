//! Unknown fields in request bodies and queries of writes are refused by name.

use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{Answer, App, PASSWORD, whole_body};

const UNKNOWN: &str = "colour";

/// A complete body for a write of box-office; `None` if the table lacks the route.
fn body_of(method: &Method, path: &str) -> Option<Value> {
    let price = json!({"amount_minor": 4_500, "currency": "eur"});
    let event = json!({
        "price": price, "sale": {"rate_per_minute": 60},
        "sections": [{"name": "A", "capacity": 1, "tier": {"name": "Gold", "price": price}}],
    });
    Some(match (method.as_str(), path) {
        ("POST", "/api/accounts") => {
            json!({"email": "ada@example.org", "password": PASSWORD, "name": "Ada"})
        }
        ("PUT", "/api/accounts/{id}/roles") => json!({"roles": ["customer"]}),
        ("POST", "/api/accounts/confirmations") => json!({"channel": "email", "code": "000000"}),
        ("POST", "/api/accounts/confirmations/codes") => json!({"channel": "email"}),
        ("POST", "/api/sessions") => json!({"email": "ada@example.org", "password": PASSWORD}),
        ("DELETE", "/api/sessions") | ("POST", "/api/sessions/refresh") => {
            json!({"refresh_token": "x"})
        }
        ("POST", "/api/events") | ("PUT", "/api/events/{id}") => whole_body(event),
        ("PUT", "/api/sales/{event_id}") => json!({"paused": true}),
        _ => return None,
    })
}

/// The writes with a body in the OpenAPI document that box-office serves.
fn writes() -> Vec<(Method, String)> {
    let document: Value = serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap();
    let is_ours = |path: &str| {
        ["/api/accounts", "/api/sessions", "/api/sales"]
            .iter()
            .any(|ours| path.starts_with(ours))
            || ["/api/events", "/api/events/{id}"].contains(&path)
    };
    let mut writes = Vec::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            if is_ours(path) && operation.get("requestBody").is_some() {
                let method = method.to_uppercase().parse().unwrap();
                writes.push((method, path.clone()));
            }
        }
    }
    writes
}

/// Copies of `body`, each with the unknown field in another of its objects.
fn with_unknown(body: &Value) -> Vec<Value> {
    fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.push(at.to_owned());
                for (name, value) in fields {
                    pointers(value, &format!("{at}/{name}"), found);
                }
            }
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    pointers(value, &format!("{at}/{index}"), found);
                }
            }
            _ => {}
        }
    }
    let mut objects = Vec::new();
    pointers(body, "", &mut objects);
    let copy = |pointer: String| {
        let mut body = body.clone();
        body.pointer_mut(&pointer).unwrap()[UNKNOWN] = json!("red");
        body
    };
    objects.into_iter().map(copy).collect()
}

#[tokio::test]
async fn every_write_refuses_an_unknown_field_by_its_name() {
    let app = App::start().await;
    let admin = app.admin().await;
    let event = app.event(json!({"capacity": 1})).await;
    let id = event["id"].to_string();
    let writes = writes();
    assert_eq!(writes.len(), 10, "{writes:?}");
    for (method, path) in writes {
        let body = body_of(&method, &path)
            .unwrap_or_else(|| panic!("the table has no body for {method} {path}"));
        let path = path.replace("{id}", &id).replace("{event_id}", &id);
        let mut is_served = false;
        for listener in [app.public, app.internal] {
            for body in with_unknown(&body) {
                let request = admin.request(listener, method.clone(), &path).json(&body);
                let answer = Answer::of(request.send().await.unwrap()).await;
                if matches!(answer.status.as_u16(), 404 | 405) {
                    continue;
                }
                is_served = true;
                assert_eq!(
                    answer.status, 422,
                    "{method} {path} took {body}: {answer:?}"
                );
                answer.invalid(UNKNOWN);
            }
        }
        assert!(is_served, "no listener serves {method} {path}");
    }
    app.finish().await;
}

#[tokio::test]
async fn a_misspelt_option_of_a_deletion_is_refused_by_its_name() {
    let app = App::start().await;
    let admin = app.admin().await;
    let event = app.event(json!({"capacity": 1})).await;
    let path = format!("/api/events/{}?booking=cancel", event["id"]);
    admin.staff_delete(&path).await.invalid("booking");
    let path = format!("/api/events/{}", event["id"]);
    assert_eq!(admin.staff_get(&path).await.expect(200)["event"], event);
    app.finish().await;
}
