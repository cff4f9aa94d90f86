//! The status of a number, and its JSON. Serialisation is written by hand, since nearly all
//! requests are polls.

use std::io::Write as _;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::Response;
use chrono::{DateTime, SecondsFormat, Utc};
use domain::queue::{Eta, PlaceState, Wait, poll_after_ms};
use domain::{Number, Place};

use crate::rendered::Rendered;
use crate::sales::LiveSale;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// Typical size of a response without a message.
const BODY_BYTES: usize = 320;

/// Status of a number in the queue.
pub(super) struct PlaceStatus {
    pub(super) place: Option<Place>,
    pub(super) state: PlaceState,
    /// People ahead; `None` while its place is unknown.
    pub(super) ahead: Option<i64>,
    wait: Wait,
}

impl LiveSale {
    /// Returns the status of `number`, whose count of people ahead never rises.
    pub(super) fn status(
        &self,
        rendered: &Rendered,
        number: Number,
        now: DateTime<Utc>,
    ) -> PlaceStatus {
        let mut status = PlaceStatus::of(rendered, number, now);
        if let (PlaceState::Waiting, Some(ahead)) = (status.state, status.ahead) {
            status.ahead = Some(self.polls.clamp_ahead(number, ahead));
        }
        status
    }
}

impl PlaceStatus {
    fn of(rendered: &Rendered, number: Number, now: DateTime<Utc>) -> Self {
        let place = rendered.view.place_of(number);
        let state = rendered.view.state_at(number, place);
        let is_waiting = state == PlaceState::Waiting;
        let ahead = match place {
            Some(place) if is_waiting => Some(rendered.ahead_of(place)),
            Some(_) => Some(0),
            None => None,
        };
        let wait = rendered.view.snapshot.wait(ahead, now);
        Self {
            place,
            state,
            ahead,
            wait,
        }
    }

    /// Returns the forecast time until the call, if the place waits and the sale is calling.
    pub(super) fn eta(&self) -> Option<Eta> {
        match self.wait {
            Wait::Call(eta) if self.state == PlaceState::Waiting => Some(eta),
            _ => None,
        }
    }

    pub(super) fn poll_after_ms(&self) -> u32 {
        poll_after_ms(self.state, self.wait, rand::random())
    }
}

pub(super) fn respond(body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    let headers = response.headers_mut();
    headers.reserve(4);
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(CACHE_CONTROL, NO_STORE);
    response
}

/// Builds the body of a poll's response.
pub(super) fn body(
    rendered: &Rendered,
    number: Number,
    status: &PlaceStatus,
    poll_after_ms: u32,
) -> Vec<u8> {
    let mut body = Vec::with_capacity(BODY_BYTES + rendered.tail.len());
    let written = write_members(&mut body, rendered, number, status, poll_after_ms);
    written.expect("memory takes what is written");
    body.extend_from_slice(&rendered.tail);
    body
}

fn write_members(
    body: &mut Vec<u8>,
    rendered: &Rendered,
    number: Number,
    status: &PlaceStatus,
    poll_after_ms: u32,
) -> std::io::Result<()> {
    write!(body, "{{\"number\":{number},\"place\":")?;
    write_or_null(body, status.place.map(|Place(place)| place))?;
    body.extend_from_slice(b",\"ahead\":");
    write_or_null(body, status.ahead)?;
    write!(
        body,
        ",\"state\":\"{}\",\"eta_seconds\":",
        word(status.state)
    )?;
    match status.eta() {
        Some(eta) => {
            body.extend_from_slice(b"{\"p50\":");
            write_tenths(body, eta.p50)?;
            body.extend_from_slice(b",\"p90\":");
            write_tenths(body, eta.p90)?;
            body.push(b'}');
        }
        None => body.extend_from_slice(b"null"),
    }
    if let Some(until) = claim_until(rendered, status) {
        let until = until.to_rfc3339_opts(SecondsFormat::Millis, true);
        write!(body, ",\"claim_until\":\"{until}\"")?;
    }
    write!(body, ",\"poll_after_ms\":{poll_after_ms}")
}

fn claim_until(rendered: &Rendered, status: &PlaceStatus) -> Option<DateTime<Utc>> {
    match (status.state, status.place) {
        (PlaceState::Ready, Some(place)) => rendered.view.claim_until(place),
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
