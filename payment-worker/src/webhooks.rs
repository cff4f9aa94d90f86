//! Stripe's webhooks: verified, stored in the inbox, and only then acknowledged.

mod apply;
mod arrivals;
mod event;
mod inbox;
mod signature;

use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::HeaderMap;
use axum::routing::post;
use platform::http::{Json, RawBody};
use platform::problem::{Kind, Problem};
use platform::service::Context;
use serde::Serialize;

use crate::worker::Worker;
use arrivals::{Arrivals, Arrived};
use event::Body;

pub(crate) use inbox::run;
pub(crate) use signature::Secrets;

/// Longest body. Stripe's events are far shorter, but it disables an endpoint that refuses them.
const MAX_BYTES: usize = 2 * 1024 * 1024;

struct Receiver {
    worker: Arc<Worker>,
    secrets: Secrets,
    arrivals: Arrivals,
}

/// The endpoint for Stripe, which signs with `secrets`.
pub(crate) fn routes(ctx: Context, worker: Arc<Worker>, secrets: Secrets) -> Router {
    let receiver = Receiver {
        arrivals: Arrivals::new(ctx, Arc::clone(&worker)),
        worker,
        secrets,
    };
    Router::new()
        .route("/api/webhooks/stripe", post(receive))
        .layer(DefaultBodyLimit::max(MAX_BYTES))
        .with_state(Arc::new(receiver))
}

#[derive(Serialize)]
struct Received {
    received: bool,
}

async fn receive(
    State(receiver): State<Arc<Receiver>>,
    headers: HeaderMap,
    RawBody(body): RawBody,
) -> Result<Json<Received>, Problem> {
    let now = receiver.worker.now();
    let header = headers
        .get("stripe-signature")
        .and_then(|value| value.to_str().ok());
    if !receiver
        .secrets
        .verify(&body, header.unwrap_or_default(), now)
    {
        metrics::counter!("payment_worker_webhooks_total", "outcome" => "refused").increment(1);
        return Err(Problem::new(
            Kind::WebhookSignature,
            "The Stripe-Signature header is missing, wrong, or older than 300 s.",
        ));
    }
    let body =
        Body::read(&body).map_err(|error| Problem::new(Kind::Malformed, error.to_string()))?;
    let outcome = match body {
        Body::Event(event) => {
            let arrived = Arrived::new(event, receiver.worker.is_live);
            match receiver.arrivals.store(arrived).await? {
                true => "stored",
                false => "repeated",
            }
        }
        // Signed, so from Stripe, and a repeat would be no different.
        Body::Other => {
            tracing::error!("ignored a signed webhook without an id or a type");
            "unreadable"
        }
    };
    metrics::counter!("payment_worker_webhooks_total", "outcome" => outcome).increment(1);
    Ok(Json(Received { received: true }))
}
