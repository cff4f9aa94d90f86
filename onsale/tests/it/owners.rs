//! Authorisation: each internal operation with each kind of caller, on both listeners.

#![expect(clippy::unwrap_used, reason = "a test's own steps")]

use std::collections::BTreeSet;

use platform::testing::eventually;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::system::{PASSWORD, System};

/// Operations on one event; another organiser gets 404.
const OF_AN_EVENT: [(&str, &str); 10] = [
    ("PUT", "/api/events/{id}"),
    ("PUT", "/api/events/{id}/refund-policy"),
    ("GET", "/api/events/{id}/refunds"),
    ("POST", "/api/bookings"),
    ("GET", "/api/bookings/{id}"),
    ("GET", "/api/bookings/user/{user_id}"),
    ("PUT", "/api/bookings/{id}/cancel"),
    ("POST", "/api/tickets/{code}/check-in"),
    ("DELETE", "/api/tickets/{code}/check-in"),
    ("DELETE", "/api/events/{id}"),
];

/// Operations on the installation, which organisers may not call.
const OF_THE_INSTALLATION: [(&str, &str); 15] = [
    ("GET", "/api/accounts"),
    ("PUT", "/api/accounts/{id}/roles"),
    ("GET", "/api/audit-log"),
    ("GET", "/api/sales/{event_id}"),
    ("PUT", "/api/sales/{event_id}"),
    ("GET", "/api/sales/{event_id}/stream"),
    ("DELETE", "/api/sales/{event_id}/passes/{account_id}"),
    ("GET", "/api/bookings/{id}/timeline"),
    ("POST", "/api/bookings/{id}/refunds"),
    ("POST", "/api/events/{id}/refunds"),
    ("GET", "/api/mails"),
    ("POST", "/api/mails/{id}/again"),
    ("GET", "/api/payment-findings"),
    ("DELETE", "/api/payment-findings/{kind}/{subject}"),
    ("POST", "/api/events"),
];

/// Operations on the caller's own account.
const OF_THE_CALLER: [(&str, &str); 1] = [("GET", "/api/accounts/me")];

/// The event, bookings and ticket that the operations name.
struct Scene {
    event: i64,
    buyer: i64,
    kept: String,
    given_up: String,
    code: String,
}

impl Scene {
    fn path(&self, method: &str, path: &str) -> String {
        let booking = match method {
            "PUT" => &self.given_up,
            _ => &self.kept,
        };
        let query = match (method, path) {
            ("DELETE", "/api/events/{id}") => "?bookings=cancel",
            ("GET", "/api/accounts") => "?email=a",
            _ => "",
        };
        let event = self.event.to_string();
        let path = if path.starts_with("/api/bookings") || path.starts_with("/api/mails") {
            path.replace("{id}", booking)
        } else {
            path.replace("{id}", &event)
        };
        let path = path
            .replace("{event_id}", &event)
            .replace("{user_id}", &self.buyer.to_string())
            .replace("{account_id}", &self.buyer.to_string())
            .replace("{code}", &self.code)
            .replace("{kind}", "dispute")
            .replace("{subject}", "dp_none");
        path + query
    }

    fn body(&self, path: &str) -> Value {
        match path {
            "/api/events/{id}" => new_event("Their event"),
            "/api/events/{id}/refund-policy" => json!({ "until": null }),
            "/api/bookings" => self.order(),
            "/api/tickets/{code}/check-in" => json!({ "event_id": self.event }),
            "/api/accounts/{id}/roles" => json!({ "roles": ["customer"] }),
            "/api/events" => json!({ "name": "", "date": "2030-01-01T19:00:00Z", "capacity": 1 }),
            _ => json!({}),
        }
    }

    fn order(&self) -> Value {
        json!({ "event_id": self.event, "user_id": self.buyer, "tickets": 1 })
    }
}

fn new_event(name: &str) -> Value {
    json!({
        "name": name, "date": "2030-01-01T19:00:00Z", "time_zone": "UTC",
        "max_tickets_per_account": 10, "ticket_transfer": false, "reminder_before_seconds": null,
        "price": { "amount_minor": 0, "currency": "eur" }, "capacity": 20,
        "description": "", "category": "", "venue": "", "city": "", "country": "",
    })
}

/// A caller.
struct Caller<'a> {
    system: &'a System,
    client: reqwest::Client,
    account: i64,
    token: String,
}

impl<'a> Caller<'a> {
    async fn sign_up(system: &'a System, name: &str, role: &str) -> Self {
        let client = reqwest::Client::new();
        let email = format!("{name}@owners.example");
        let credentials = json!({ "email": email, "password": PASSWORD });
        let url = system.public_url("all").join("/api/accounts").unwrap();
        let made = client.post(url).json(&credentials).send().await.unwrap();
        assert_eq!(made.status(), 201);
        system.onsale(&["account", "grant", &email, role]).unwrap();
        let url = system.internal_url().join("/api/sessions").unwrap();
        let signed_in = client.post(url).json(&credentials).send().await.unwrap();
        let session: Value = signed_in.json().await.unwrap();
        let session = &session["session"];
        Self {
            system,
            client,
            account: session["account_id"].as_i64().unwrap(),
            token: session["access_token"].as_str().unwrap().to_owned(),
        }
    }

    async fn at(
        &self,
        base: url::Url,
        method: &str,
        path: &str,
        body: &Value,
    ) -> (StatusCode, Value) {
        let method: Method = method.parse().unwrap();
        let request = self.client.request(method, base.join(path).unwrap());
        let request = request
            .bearer_auth(&self.token)
            .header("idempotency-key", uuid::Uuid::new_v4().to_string());
        let answer = request.json(body).send().await.unwrap();
        let status = answer.status();
        let is_stream = path.ends_with("/stream") && status.is_success();
        let bytes = if is_stream {
            Default::default()
        } else {
            answer.bytes().await.unwrap()
        };
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    async fn internal(&self, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        self.at(self.system.internal_url(), method, path, body)
            .await
    }

    async fn public(&self, method: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        self.at(self.system.public_url("all"), method, path, body)
            .await
    }

    /// Books one free place, waits for its ticket, and returns booking and code.
    async fn book(&self, order: &Value) -> (String, String) {
        let mut booked = Value::Null;
        eventually(std::time::Duration::from_secs(60), async || {
            let (status, answer) = self.public("POST", "/api/bookings", order).await;
            booked = answer;
            // A busy machine may not hold it within two seconds, and has accepted it all the same.
            status == 201 || status == 202
        })
        .await;
        let id = booked["booking"]["id"].as_str().unwrap().to_owned();
        let path = format!("/api/bookings/{id}");
        let mut code = None;
        eventually(std::time::Duration::from_secs(60), async || {
            let (_, answer) = self.public("GET", &path, &json!({})).await;
            code = answer["booking"]["ticket_codes"][0]
                .as_str()
                .map(str::to_owned);
            code.is_some()
        })
        .await;
        (id, code.unwrap())
    }
}

/// The internal operations that need an access token.
fn internal_operations() -> BTreeSet<(String, String)> {
    let document: Value = serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap();
    let mut found = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let listeners = operation["x-onsale-listeners"].as_array().unwrap();
            let wants_token = operation["security"]
                .as_array()
                .is_some_and(|all| !all.is_empty());
            if wants_token && listeners.contains(&json!("internal")) {
                found.insert((method.to_uppercase(), path.clone()));
            }
        }
    }
    found
}

#[test]
fn every_internal_operation_is_somebodys() {
    let ours = OF_AN_EVENT
        .iter()
        .chain(&OF_THE_INSTALLATION)
        .chain(&OF_THE_CALLER);
    let ours: BTreeSet<_> = ours
        .map(|(method, path)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    assert_eq!(internal_operations(), ours);
}

async fn scene(organiser: &Caller<'_>, buyer: &Caller<'_>) -> Scene {
    let mut event = new_event("Their event");
    event["sale"] = json!({ "queue": false });
    let (status, made) = organiser.internal("POST", "/api/events", &event).await;
    assert_eq!(status, 201, "{made}");
    let mut scene = Scene {
        event: made["event"]["id"].as_i64().unwrap(),
        buyer: buyer.account,
        kept: String::new(),
        given_up: String::new(),
        code: String::new(),
    };
    (scene.given_up, _) = buyer.book(&scene.order()).await;
    (scene.kept, scene.code) = buyer.book(&scene.order()).await;
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organiser_reaches_their_own_events_and_nothing_of_anothers() {
    let system = System::start(&["all"]).await.unwrap();
    let owner = Caller::sign_up(&system, "owner", "organiser").await;
    let other = Caller::sign_up(&system, "other", "organiser").await;
    let buyer = Caller::sign_up(&system, "buyer", "customer").await;
    let scene = scene(&owner, &buyer).await;

    // On the public listener a role grants nothing.
    for (method, path, body) in [
        ("GET", format!("/api/bookings/{}", scene.kept), json!({})),
        (
            "GET",
            format!("/api/bookings/user/{}", scene.buyer),
            json!({}),
        ),
        (
            "PUT",
            format!("/api/bookings/{}/cancel", scene.kept),
            json!({}),
        ),
        ("POST", "/api/bookings".to_owned(), scene.order()),
    ] {
        let (status, answer) = owner.public(method, &path, &body).await;
        assert_eq!(status, 403, "{method} {path}: {answer}");
    }
    for (method, path) in OF_AN_EVENT.iter().chain(&OF_THE_INSTALLATION) {
        let (at, body) = (scene.path(method, path), scene.body(path));
        let (status, answer) = buyer.internal(method, &at, &body).await;
        assert_eq!(status, 403, "a customer: {method} {path}: {answer}");
    }
    for (method, path) in OF_AN_EVENT {
        let (at, body) = (scene.path(method, path), scene.body(path));
        let (status, answer) = other.internal(method, &at, &body).await;
        if path == "/api/bookings/user/{user_id}" {
            assert_eq!(answer, json!({ "bookings": [] }));
        } else {
            assert_eq!(status, 404, "another: {method} {path}: {answer}");
        }
    }
    for caller in [&owner, &other] {
        for (method, path) in OF_THE_INSTALLATION {
            let (at, body) = (scene.path(method, path), scene.body(path));
            let (status, answer) = caller.internal(method, &at, &body).await;
            // Any organiser may create events; this one is refused for lack of a name.
            let expected = if path == "/api/events" { 422 } else { 403 };
            assert_eq!(status, expected, "{method} {path}: {answer}");
        }
    }
    for (method, path) in OF_AN_EVENT {
        let (at, body) = (scene.path(method, path), scene.body(path));
        let (status, answer) = owner.internal(method, &at, &body).await;
        assert!(
            status.is_success(),
            "the owner: {method} {path}: {status} {answer}"
        );
        if (method, path) == ("GET", "/api/bookings/{id}") {
            assert_eq!(answer["booking"]["ticket_codes"], json!([]));
        }
    }
    noted(&system, &scene).await;
    system.finish().await.unwrap();
}

/// Asserts that the audit log has what the organiser read and deleted.
async fn noted(system: &System, scene: &Scene) {
    for (subject, action) in [
        (format!("booking:{}", scene.kept), "booking.read"),
        (format!("account:{}", scene.buyer), "booking.read"),
    ] {
        let path = format!("/api/audit-log?subject={subject}");
        eventually(std::time::Duration::from_secs(60), async || {
            let log = system.staff(Method::GET, &path, &json!({})).await.unwrap();
            let entries = log["entries"].as_array().unwrap().clone();
            entries.iter().any(|entry| entry["action"] == action)
        })
        .await;
    }
    let path = format!("/api/audit-log?subject=event:{}", scene.event);
    let log = system.staff(Method::GET, &path, &json!({})).await.unwrap();
    let deleted = &log["entries"][0];
    assert_eq!(deleted["action"], "event.delete");
    assert_eq!(deleted["detail"]["bookings"], "cancel");
    let live = |state: &str| deleted["detail"][state].as_i64().unwrap();
    assert_eq!(live("held") + live("sold"), 2, "{deleted}");
}
