//! `GET /api/events/{id}/queue/me`: polls the status of a queue token. Nearly all requests are
//! these, so the response is built from memory alone.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::Uri;
use axum::response::Response;
use domain::{EventId, Number};
use platform::auth::QUEUE_TOKEN;
use platform::problem::{Kind, Problem};
use serde_json::{Map, Value};

use super::status::{self, PlaceStatus};
use super::{holder, recover};
use crate::rendered::Rendered;
use crate::state::AppState;

pub(super) async fn me(
    State(state): State<Arc<AppState>>,
    request: Request,
) -> Result<Response, Problem> {
    let event_id = event_id(request.uri())?;
    let now = state.ctx.clock.now();
    if !request.headers().contains_key(QUEUE_TOKEN) {
        return recover::recover(&state, event_id, request.headers(), now).await;
    }
    let holder = holder(&state.ctx.keys, event_id, request.headers(), now)?;
    drop(request);
    let sale = state.sales.get(event_id).await?;
    let now_ms = state.now_ms(now);
    let rendered = sale.rendered();
    let status = sale.status(&rendered, holder.number, now);
    sale.polls.mark_present(holder.number);
    if let Some(wait) = sale.polls.retry_after(holder.number, now_ms) {
        return Err(too_early(&rendered, holder.number, &status, wait));
    }
    if let (Some(place), Some(eta)) = (status.place, status.eta()) {
        sale.calibration.record(holder.number, place, eta, now);
    }
    let poll_after_ms = status.poll_after_ms();
    sale.polls.set_next(
        holder.number,
        now_ms.wrapping_add(state.too_early_ms(poll_after_ms)),
    );
    let body = status::body(&rendered, holder.number, &status, poll_after_ms);
    Ok(status::respond(body))
}

/// Parses the sale's id from the path.
fn event_id(uri: &Uri) -> Result<EventId, Problem> {
    uri.path()
        .strip_prefix("/api/events/")
        .and_then(|rest| rest.split('/').next())
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| Problem::new(Kind::Malformed, "The event's id is not a number."))
}

/// The refusal of an early poll. It carries the status, so that a reloaded page can show it at
/// once.
fn too_early(rendered: &Rendered, number: Number, status: &PlaceStatus, wait: Duration) -> Problem {
    let poll_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    let body = status::body(rendered, number, status, poll_after_ms);
    let members: Map<String, Value> =
        serde_json::from_slice(&body).expect("what was written can be read");
    Problem::new(
        Kind::TooEarly,
        "Poll again after `poll_after_ms`; polling sooner does not improve your place.",
    )
    .retry_after(wait)
    .with_all(members)
}
