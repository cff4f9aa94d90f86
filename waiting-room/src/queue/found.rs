//! `GET /api/events/{id}/queue/me` without a queue token: recovers the place, and its token, of an
//! account that signs in on another device.

use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::EventId;
use platform::auth::{Joiner, signed_out};
use platform::problem::{Kind, Problem};

use super::join::claims;
use super::standing;
use crate::Room;

/// Returns the caller's standing and queue token.
///
/// # Errors
/// `signed-out`; `not-found` when the caller has not joined.
pub(super) async fn find(
    room: &Room,
    event_id: EventId,
    headers: &HeaderMap,
    now: DateTime<Utc>,
) -> Result<Response, Problem> {
    let keys = &room.ctx.keys;
    let joiner = Joiner::of(keys, event_id, headers, now)?.ok_or_else(signed_out)?;
    let sale = room.sales.get(event_id).await?;
    let number = sale
        .lookups
        .number_of(joiner.id)
        .await?
        .ok_or_else(|| Problem::new(Kind::NotFound, "You have not joined this queue."))?;
    let shown = sale.shown();
    let standing = sale.standing(&shown, number, now);
    sale.asked.see(number);
    let snapshot = &shown.view.snapshot;
    let claims = claims(snapshot, joiner.id, number, now);
    let token = keys.sign_queue(&claims, &snapshot.lottery.entries_key);
    let standing = standing::body(&shown, number, &standing, standing.poll_after_ms());
    // The usual JSON, with one more member in front.
    let mut body = format!("{{\"queue_token\":\"{token}\",").into_bytes();
    body.extend_from_slice(&standing[1..]);
    Ok(standing::respond(body))
}
