//! What orchestrators and monitoring ask of a process.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde::Serialize;

use super::Context;
use crate::http::Json;
use crate::telemetry;

/// Longest wait for one server's answer.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);

/// The answer of `/readyz`: for each server `ok`, or what is wrong.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    stopping: bool,
    postgres: String,
    redis: String,
    rabbitmq: String,
}

pub(super) fn routes(ctx: Context) -> Router {
    Router::new()
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(ctx)
}

async fn readyz(State(ctx): State<Context>) -> Response {
    let stopping = ctx.shutdown.soft().is_cancelled();
    let (postgres, redis, rabbitmq) = tokio::join!(
        check(sqlx::query("SELECT 1").execute(&ctx.db)),
        check(ctx.redis.ping()),
        check(ctx.broker.ping()),
    );
    let ready = !stopping && postgres.is_ok() && redis.is_ok() && rabbitmq.is_ok();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let word = |outcome: Result<(), String>| outcome.err().unwrap_or_else(|| "ok".to_owned());
    let readiness = Readiness {
        ready,
        stopping,
        postgres: word(postgres),
        redis: word(redis),
        rabbitmq: word(rabbitmq),
    };
    (status, Json(readiness)).into_response()
}

async fn check<T, E: Display>(ask: impl Future<Output = Result<T, E>>) -> Result<(), String> {
    match tokio::time::timeout(CHECK_TIMEOUT, ask).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in time".to_owned()),
    }
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
