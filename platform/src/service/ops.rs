//! The operations listener: liveness, readiness and metrics.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use super::Context;
use crate::http::Json;
use crate::telemetry;

pub(super) fn routes(ctx: Context) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(ctx)
}

async fn readyz(State(ctx): State<Context>) -> Response {
    let readiness = ctx.health.readiness(ctx.shutdown.soft().is_cancelled());
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(readiness)).into_response()
}

async fn metrics(State(ctx): State<Context>) -> impl IntoResponse {
    let idle = u32::try_from(ctx.db.num_idle()).unwrap_or(u32::MAX);
    let busy = ctx.db.size().saturating_sub(idle);
    metrics::gauge!("db_pool_connections", "state" => "idle").set(f64::from(idle));
    metrics::gauge!("db_pool_connections", "state" => "busy").set(f64::from(busy));
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
        telemetry::render(),
    )
}
