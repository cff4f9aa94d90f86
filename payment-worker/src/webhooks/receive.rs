use std::sync::Arc;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::HeaderMap;
use axum::routing::post;
use platform::http::{Json, RawBody};
use platform::problem::{Kind, Problem};
use platform::service::Context;
use serde::Serialize;

use super::event::StripeEvent;
use super::intake::Intake;
use super::signature::Secrets;
use crate::state::AppState;

/// Longest body. Stripe's events are far shorter, but it disables an endpoint that refuses them.
const MAX_BYTES: usize = 2 * 1024 * 1024;

struct Receiver {
    state: Arc<AppState>,
    secrets: Secrets,
    intake: Intake,
}

/// The endpoint for Stripe, which signs with `secrets`.
pub(crate) fn routes(ctx: Context, state: Arc<AppState>, secrets: Secrets) -> Router {
    let receiver = Receiver {
        intake: Intake::new(ctx, Arc::clone(&state)),
        state,
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
    let now = receiver.state.now();
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
    let event = StripeEvent::parse(&body, receiver.state.is_live)
        .map_err(|error| Problem::new(Kind::Malformed, error.to_string()))?;
    let outcome = match event {
        Some(event) => match receiver.intake.store(event).await? {
            true => "stored",
            false => "repeated",
        },
        // Signed, so from Stripe, and a repeat would be no different.
        None => {
            tracing::error!("ignored a signed webhook without an id or a type");
            "unreadable"
        }
    };
    metrics::counter!("payment_worker_webhooks_total", "outcome" => outcome).increment(1);
    Ok(Json(Received { received: true }))
}
