//! The gateway of compose.yaml, in a real nginx: each path of the API reaches the service that owns
//! it, on both listeners.

#![expect(clippy::unwrap_used, reason = "a test's own steps")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use platform::testing::eventually;
use serde_json::Value;

use crate::nginx::{Nginx, free_address, program};

const PUBLIC: &str = "public";
const INTERNAL: &str = "internal";

/// Paths of the document, and who serves them; box-office serves all others.
const OWNERS: [(&str, &str, &str); 24] = [
    (PUBLIC, "/api/events/{id}/queue", "waiting-room"),
    (PUBLIC, "/api/events/{id}/queue/me", "waiting-room"),
    (PUBLIC, "/api/events/{id}/queue/stream", "waiting-room"),
    (PUBLIC, "/api/events/{id}/queue/challenge", "waiting-room"),
    (PUBLIC, "/api/events/{id}/queue/lottery", "admission"),
    (PUBLIC, "/api/events/{id}/pass", "admission"),
    (PUBLIC, "/.well-known/jwks.json", "admission"),
    (PUBLIC, "/api/bookings", "admission"),
    (PUBLIC, "/api/bookings/{id}", "admission"),
    (PUBLIC, "/api/bookings/user/{user_id}", "admission"),
    (PUBLIC, "/api/bookings/{id}/cancel", "admission"),
    (PUBLIC, "/api/bookings/{id}/card", "payment-worker"),
    (PUBLIC, "/api/saved-cards", "payment-worker"),
    (PUBLIC, "/api/saved-cards/{id}", "payment-worker"),
    (PUBLIC, "/api/tickets", "booking-worker"),
    (PUBLIC, "/api/tickets/{code}/transfer", "booking-worker"),
    (PUBLIC, "/api/webhooks/stripe", "payment-worker"),
    (PUBLIC, "/api/events/{id}/refund-policy", "payment-worker"),
    (INTERNAL, "/api/tickets/{code}/check-in", "booking-worker"),
    (INTERNAL, "/api/bookings/{id}/timeline", "payment-worker"),
    (INTERNAL, "/api/bookings/{id}/refunds", "payment-worker"),
    (INTERNAL, "/api/events/{id}/refund-policy", "payment-worker"),
    (INTERNAL, "/api/events/{id}/refunds", "payment-worker"),
    (INTERNAL, "/api/payment-findings", "payment-worker"),
];

fn repository(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(root.join(path)).unwrap()
}

/// Every listener and path of the API.
fn documented() -> BTreeSet<(String, String)> {
    let document: Value = serde_json::from_str(&repository("docs/openapi.json")).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let mut all = BTreeSet::new();
    for (path, operations) in paths {
        for operation in operations.as_object().unwrap().values() {
            for listener in operation["x-onsale-listeners"]
                .as_array()
                .into_iter()
                .flatten()
            {
                all.insert((listener.as_str().unwrap().to_owned(), path.clone()));
            }
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn each_path_of_the_api_reaches_its_owner() {
    let documented = documented();
    for (listener, path, _) in OWNERS {
        let place = (listener.to_owned(), path.to_owned());
        assert!(documented.contains(&place), "{place:?} is not documented");
    }
    let Some(program) = program() else {
        println!("SKIPPED: no nginx with http_auth_request_module is installed");
        return;
    };
    let (public, internal) = (free_address(), free_address());
    let mut config = repository("deploy/gateway.conf");
    // Says who it would ask, instead of asking.
    for (from, to) in [
        ("listen 80;", format!("listen {public};")),
        ("listen 81;", format!("listen {internal};")),
        (
            "proxy_pass http://$owner:8080;",
            "return 200 $owner;".to_owned(),
        ),
        (
            "proxy_pass http://$staff_owner:8081;",
            "return 200 $staff_owner;".to_owned(),
        ),
    ] {
        assert!(config.contains(from), "the gateway has no {from}");
        config = config.replace(from, &to);
    }
    let config = format!("events {{}}\nhttp {{\n{config}}}\n");
    let _nginx = Nginx::start(&program, public, &config);
    let client = reqwest::Client::new();
    eventually(Duration::from_secs(10), async || {
        client.get(format!("http://{public}/")).send().await.is_ok()
    })
    .await;
    for (listener, path) in documented {
        let address = if listener == PUBLIC { public } else { internal };
        let known = OWNERS
            .iter()
            .find(|(on, known, _)| *on == listener && *known == path);
        let findings = path
            .starts_with("/api/payment-findings")
            .then_some("payment-worker");
        let owner = known.map(|(.., owner)| *owner).or(findings);
        let asked = path.replace(['{', '}'], "");
        let answer = client.get(format!("http://{address}{asked}")).send();
        let answer = answer.await.unwrap().text().await.unwrap();
        assert_eq!(answer, owner.unwrap_or("box-office"), "{listener} {path}");
    }
}
