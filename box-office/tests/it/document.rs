//! docs/openapi.json allows exactly the text that is accepted.

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

use crate::app::{Answer, App, PASSWORD, event_body};

fn document() -> Value {
    serde_json::from_str(include_str!("../../../docs/openapi.json")).unwrap()
}

fn validator(mut schema: Value) -> Validator {
    schema["components"] = document()["components"].clone();
    jsonschema::options()
        .with_draft(Draft::Draft202012)
        .build(&schema)
        .unwrap()
}

fn of_body(name: &str) -> Validator {
    validator(json!({ "$ref": format!("#/components/schemas/{name}") }))
}

fn of_cursor(path: &str) -> Validator {
    let document = document();
    let parameters = document["paths"][path]["get"]["parameters"].as_array();
    let mut parameters = parameters.unwrap().iter();
    let cursor = parameters.find(|parameter| parameter["name"] == "cursor");
    validator(cursor.unwrap()["schema"].clone())
}

/// Returns false for a refusal of the text; a NUL is refused as malformed.
fn is_accepted(answer: &Answer) -> bool {
    let (status, body) = (answer.status.as_u16(), &answer.body);
    assert!([200, 201, 400, 422].contains(&status), "{status} {body}");
    status < 400
}

/// Text that some fields accept and others refuse.
fn samples() -> Vec<String> {
    let of_length = |chars: usize| "x".repeat(chars);
    let mut samples: Vec<_> = [
        "Stalls",
        " Stalls\n",
        "عائشة",
        "می\u{200c}خواهم",
        "",
        " ",
        "\u{3000}",
        "NL",
        " nl",
        "N1",
        "a\u{0}b",
        "a\nb",
        "a\tb",
        "a\u{7f}b",
        "a\u{85}b",
        "a\u{200b}b",
        "a\u{2028}b",
        "a\u{202e}b",
        "a\u{2066}b",
        "a\u{feff}b",
    ]
    .map(str::to_owned)
    .into();
    samples.extend([100, 101, 200, 201].map(of_length));
    samples
}

#[tokio::test]
async fn an_events_text_is_accepted_if_the_document_allows_it() {
    let app = App::start().await;
    let (admin, allowed) = (app.admin().await, of_body("NewEvent"));
    let price = json!({"amount_minor": 4_500, "currency": "eur"});
    let body = event_body(json!({
        "category": "", "venue": "", "city": "", "country": "",
        "sections": [{"name": "A", "capacity": 1, "tier": {"name": "Gold", "price": price}}],
    }));
    for field in [
        "/name",
        "/category",
        "/venue",
        "/city",
        "/country",
        "/sections/0/name",
        "/sections/0/tier/name",
    ] {
        for sample in samples() {
            let mut body = body.clone();
            *body.pointer_mut(field).unwrap() = json!(sample);
            let answer = admin.staff_post("/api/events", &body).await;
            let is_accepted = is_accepted(&answer);
            assert_eq!(is_accepted, allowed.is_valid(&body), "{field} {sample:?}");
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn a_phone_or_name_of_an_account_is_accepted_if_the_document_allows_it() {
    let app = App::start().await;
    let allowed = of_body("NewAccount");
    let phones = [
        "+31201234567",
        "+1234567",
        "+123456789012345",
        "",
        "+",
        "31201234567",
        "+0201234567",
        "+123456",
        "+1234567890123456",
        "+12 34567",
        "+3120123456a",
    ];
    let phones = phones.map(|phone| json!({ "phone": phone }));
    let names = samples().into_iter().map(|name| json!({ "name": name }));
    let mut accepted = 0;
    for (index, mut body) in phones.into_iter().chain(names).enumerate() {
        body["email"] = json!(format!("ada{index}@example.org"));
        body["password"] = json!(PASSWORD);
        let answer = app.nobody().post("/api/accounts", &body).await;
        let is_accepted = is_accepted(&answer);
        assert_eq!(is_accepted, allowed.is_valid(&body), "{body}");
        accepted += usize::from(is_accepted);
    }
    assert_eq!(accepted, 16);
    app.finish().await;
}

#[tokio::test]
async fn a_cursor_is_accepted_if_the_document_allows_it() {
    let app = App::start().await;
    for _ in 0..2 {
        app.event(json!({"capacity": 1})).await;
    }
    let admin = app.admin().await;
    let first = admin.staff_get("/api/events?limit=1").await.expect(200);
    let of_events = first["next_cursor"].as_str().unwrap();
    // Of the entry 1.
    let of_audit = "AAAAAAAAAAE";
    for (path, next) in [("/api/events", of_events), ("/api/audit-log", of_audit)] {
        let allowed = of_cursor(path);
        let unused_bits = format!("{}B", &next[..next.len() - 1]);
        let wrong = ["", "x", "AAAA", "!!", &unused_bits, &format!("{next}AAAA")];
        for cursor in [next].into_iter().chain(wrong) {
            let answer = admin.staff_get(&format!("{path}?cursor={cursor}")).await;
            let is_allowed = allowed.is_valid(&json!(cursor));
            assert_eq!(is_allowed, cursor == next, "{path} {cursor:?}");
            assert_eq!(is_accepted(&answer), is_allowed, "{path} {cursor:?}");
        }
    }
    app.finish().await;
}
