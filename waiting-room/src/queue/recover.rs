//! `GET /api/events/{id}/queue/me` without a queue token: recovers the place, and its token, of an
//! account that signs in on another device.

use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::EventId;
use platform::auth::{Joiner, signed_out};
use platform::problem::{Kind, Problem};

use super::join::claims;
use super::status;
use crate::state::AppState;

/// Returns the caller's status and queue token.
///
/// # Errors
/// `signed-out`; `not-found` when the caller has not joined.
pub(super) async fn recover(
    state: &AppState,
    event_id: EventId,
    headers: &HeaderMap,
    now: DateTime<Utc>,
) -> Result<Response, Problem> {
    let keys = &state.ctx.keys;
    let joiner = Joiner::of(keys, event_id, headers, now)?.ok_or_else(signed_out)?;
    let sale = state.sales.get(event_id).await?;
    let number = sale
        .lookups
        .number_of(joiner.id)
        .await?
        .ok_or_else(|| Problem::new(Kind::NotFound, "You have not joined this queue."))?;
    let rendered = sale.rendered();
    let status = sale.status(&rendered, number, now);
    sale.polls.mark_present(number);
    let snapshot = &rendered.view.snapshot;
    let claims = claims(snapshot, joiner.id, number, now);
    let token = keys.sign_queue(&claims, &snapshot.lottery.entries_key);
    let members = status::body(&rendered, number, &status, status.poll_after_ms());
    // The usual JSON, with one more member in front.
    let mut body = format!("{{\"queue_token\":\"{token}\",").into_bytes();
    body.extend_from_slice(&members[1..]);
    Ok(status::respond(body))
}
