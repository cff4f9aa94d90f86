//! `GET /api/events/{id}/queue/me`: polls the standing of a queue token. Nearly all requests are
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

use super::standing::{self, Standing};
use super::{found, holder};
use crate::Room;
use crate::shown::Shown;

pub(super) async fn me(
    State(room): State<Arc<Room>>,
    request: Request,
) -> Result<Response, Problem> {
    let event_id = event_id(request.uri())?;
    let now = room.ctx.clock.now();
    if !request.headers().contains_key(QUEUE_TOKEN) {
        return found::find(&room, event_id, request.headers(), now).await;
    }
    let holder = holder(&room.ctx.keys, event_id, request.headers(), now)?;
    drop(request);
    let sale = room.sales.get(event_id).await?;
    let now_ms = room.now_ms(now);
    let shown = sale.shown();
    let standing = sale.standing(&shown, holder.number, now);
    sale.asked.see(holder.number);
    if let Some(wait) = sale.asked.wait(holder.number, now_ms) {
        return Err(too_early(&shown, holder.number, &standing, wait));
    }
    if let (Some(place), Some(eta)) = (standing.place, standing.eta()) {
        sale.calibration.note(holder.number, place, eta, now);
    }
    let poll_after_ms = standing.poll_after_ms();
    sale.asked.set_next(
        holder.number,
        now_ms.wrapping_add(room.too_early_ms(poll_after_ms)),
    );
    let body = standing::body(&shown, holder.number, &standing, poll_after_ms);
    Ok(standing::respond(body))
}

/// Parses the sale's id from the path.
fn event_id(uri: &Uri) -> Result<EventId, Problem> {
    uri.path()
        .strip_prefix("/api/events/")
        .and_then(|rest| rest.split('/').next())
        .and_then(|id| id.parse().ok())
        .ok_or_else(|| Problem::new(Kind::Malformed, "The event's id is not a number."))
}

/// The refusal of an early poll. It carries the standing, so that a reloaded page can show it at
/// once.
fn too_early(shown: &Shown, number: Number, standing: &Standing, wait: Duration) -> Problem {
    let poll_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
    let body = standing::body(shown, number, standing, poll_after_ms);
    let members: Map<String, Value> =
        serde_json::from_slice(&body).expect("what was written can be read");
    Problem::new(
        Kind::TooEarly,
        "Poll again after `poll_after_ms`; polling sooner does not improve your place.",
    )
    .retry_after(wait)
    .with_all(members)
}
