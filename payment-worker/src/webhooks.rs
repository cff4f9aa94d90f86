//! Stripe's webhooks: verified, stored, and only then acknowledged.

mod apply;
mod arrivals;
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
use platform::service::Context;
use serde::Serialize;

use crate::worker::Worker;
use arrivals::{Arrivals, Arrived};

pub(crate) use inbox::run;
pub(crate) use signature::Secrets;

struct Receiver {
    worker: Arc<Worker>,
    secrets: Secrets,
    arrivals: Arrivals,
}

/// The route for Stripe, which signs with `secrets`.
pub(crate) fn routes(ctx: Context, worker: Arc<Worker>, secrets: Secrets) -> Router {
    let receiver = Receiver {
        arrivals: Arrivals::new(ctx, Arc::clone(&worker)),
        worker,
        secrets,
    };
    Router::new()
        .route("/api/webhooks/stripe", post(receive))
        .with_state(Arc::new(receiver))
}

#[derive(Serialize)]
struct Received {
    received: bool,
}

async fn receive(
    State(receiver): State<Arc<Receiver>>,
    headers: HeaderMap,
    body: Bytes,
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
    let arrived =
        Arrived::read(&body).map_err(|error| Problem::new(Kind::Malformed, error.to_string()))?;
    let is_new = receiver.arrivals.store(arrived).await?;
    let outcome = if is_new { "stored" } else { "repeated" };
    metrics::counter!("payment_worker_webhooks_total", "outcome" => outcome).increment(1);
    Ok(Json(Received { received: true }))
}
