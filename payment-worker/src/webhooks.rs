//! Stripe's webhooks: verified, stored, acknowledged, and only then applied.

mod apply;
mod inbox;
mod signature;

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use platform::http::Json;
use platform::problem::{Kind, Problem};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store;
use crate::worker::Worker;

pub(crate) use inbox::run;
pub(crate) use signature::Secrets;

/// What the route needs.
pub(crate) struct Receiver {
    /// The rest of the worker.
    pub worker: Arc<Worker>,
    /// What Stripe signs with.
    pub secrets: Secrets,
}

/// The route for Stripe.
pub(crate) fn routes(receiver: Receiver) -> Router {
    Router::new()
        .route("/api/webhooks/stripe", post(receive))
        .with_state(Arc::new(receiver))
}

#[derive(Serialize)]
struct Received {
    received: bool,
}

/// The part of an event that is needed to store it.
#[derive(Deserialize)]
struct Envelope {
    id: String,
    #[serde(rename = "type")]
    kind: String,
}

async fn receive(
    State(receiver): State<Arc<Receiver>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Received>, Problem> {
    let Receiver { worker, secrets } = &*receiver;
    let now = worker.now();
    let header = headers
        .get("stripe-signature")
        .and_then(|value| value.to_str().ok());
    if !secrets.verify(&body, header.unwrap_or_default(), now) {
        metrics::counter!("payment_worker_webhooks_total", "outcome" => "refused").increment(1);
        return Err(Problem::new(
            Kind::WebhookSignature,
            "The Stripe-Signature header is missing, wrong, or older than 300 s.",
        ));
    }
    let malformed = |error: serde_json::Error| Problem::new(Kind::Malformed, error.to_string());
    let payload: Value = serde_json::from_slice(&body).map_err(malformed)?;
    let event = Envelope::deserialize(&payload).map_err(malformed)?;
    let is_new = store::inbox::insert(&worker.db, &event.id, &event.kind, &payload, now)
        .await
        .map_err(|error| Problem::internal(&error))?;
    let outcome = if is_new { "stored" } else { "repeated" };
    metrics::counter!("payment_worker_webhooks_total", "outcome" => outcome).increment(1);
    if is_new {
        worker.webhook_stored.notify_one();
    }
    Ok(Json(Received { received: true }))
}
