//! `GET /api/events/{id}/queue/me`: polls the standing of a queue token. Nearly all requests are
//! these, so the response is built from memory alone, by hand-written serialisation.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, Uri};
use axum::response::Response;
use chrono::{DateTime, SecondsFormat, Utc};
use domain::queue::PlaceState;
use domain::{EventId, Number, Place};
use platform::auth::QUEUE_TOKEN;
use platform::problem::{Kind, Problem};
use serde_json::{Map, Value};

use super::{Standing, found, holder};
use crate::Room;
use crate::shown::Shown;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// Typical size of a response without a message.
const ANSWER_BYTES: usize = 320;

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
    let body = answer(&shown, holder.number, &standing, poll_after_ms);
    Ok(respond(body))
}

pub(super) fn respond(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.reserve(4);
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(CACHE_CONTROL, NO_STORE);
    response
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
    let body = answer(shown, number, standing, poll_after_ms);
    let members: Map<String, Value> =
        serde_json::from_slice(&body).expect("what was written can be read");
    Problem::new(
        Kind::TooEarly,
        "Poll again after `poll_after_ms`; polling sooner does not improve your place.",
    )
    .retry_after(wait)
    .with_all(members)
}

pub(super) fn answer(
    shown: &Shown,
    number: Number,
    standing: &Standing,
    poll_after_ms: u32,
) -> Vec<u8> {
    let mut body = Vec::with_capacity(ANSWER_BYTES + shown.tail.len());
    let written = write_members(&mut body, shown, number, standing, poll_after_ms);
    written.expect("memory takes what is written");
    body.extend_from_slice(&shown.tail);
    body
}

fn write_members(
    body: &mut Vec<u8>,
    shown: &Shown,
    number: Number,
    standing: &Standing,
    poll_after_ms: u32,
) -> std::io::Result<()> {
    write!(body, "{{\"number\":{number},\"place\":")?;
    write_or_null(body, standing.place.map(|Place(place)| place))?;
    body.extend_from_slice(b",\"ahead\":");
    write_or_null(body, standing.ahead)?;
    write!(
        body,
        ",\"state\":\"{}\",\"eta_seconds\":",
        word(standing.state)
    )?;
    match standing.eta() {
        Some(eta) => {
            body.extend_from_slice(b"{\"p50\":");
            write_tenths(body, eta.p50)?;
            body.extend_from_slice(b",\"p90\":");
            write_tenths(body, eta.p90)?;
            body.push(b'}');
        }
        None => body.extend_from_slice(b"null"),
    }
    if let Some(until) = claim_until(shown, standing) {
        let until = until.to_rfc3339_opts(SecondsFormat::Millis, true);
        write!(body, ",\"claim_until\":\"{until}\"")?;
    }
    write!(body, ",\"poll_after_ms\":{poll_after_ms}")
}

fn claim_until(shown: &Shown, standing: &Standing) -> Option<DateTime<Utc>> {
    match (standing.state, standing.place) {
        (PlaceState::Ready, Some(place)) => shown.view.claim_until(place),
        _ => None,
    }
}

fn write_or_null(body: &mut Vec<u8>, value: Option<i64>) -> std::io::Result<()> {
    match value {
        Some(value) => write!(body, "{value}"),
        None => body.write_all(b"null"),
    }
}

/// Writes seconds with one decimal, the precision of estimates.
fn write_tenths(body: &mut Vec<u8>, seconds: f64) -> std::io::Result<()> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an estimate that is neither negative nor beyond centuries; others are cut off"
    )]
    let tenths = (seconds * 10.0).round() as u64;
    write!(body, "{}.{}", tenths / 10, tenths % 10)
}

fn word(state: PlaceState) -> &'static str {
    match state {
        PlaceState::Waiting => "waiting",
        PlaceState::Ready => "ready",
        PlaceState::Claimed => "claimed",
        PlaceState::Missed => "missed",
        PlaceState::Left => "left",
    }
}
