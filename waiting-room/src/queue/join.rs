//! `POST /api/events/{id}/queue`: join.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use domain::queue::{PlaceState, Snapshot, poll_after_ms};
use domain::sale::SaleState;
use domain::token::{ISSUER, QueueClaims, VisitorClaims, sale_audience};
use domain::{AccountId, EventId, Number, Place};
use platform::auth::{Joiner, signed_out};
use platform::http::{ClientAddr, Json, Path, RawBody};
use platform::limits::AddressGroup;
use platform::problem::{Kind, Problem};
use serde::Serialize;

use super::{Standing, challenge};
use crate::Room;
use crate::sales::Sale;
use crate::store::Given;

/// How long a token lasts at least when the snapshot names a time that is over.
const TOKEN_LIFE: TimeDelta = TimeDelta::hours(24);

#[derive(Serialize)]
struct Answer {
    queue_token: String,
    /// For a visitor who had none.
    #[serde(skip_serializing_if = "Option::is_none")]
    visitor_token: Option<String>,
    number: Number,
    place: Option<Place>,
    state: PlaceState,
    ahead: Option<i64>,
    poll_after_ms: u32,
}

pub(super) async fn join(
    State(room): State<Arc<Room>>,
    Path(event_id): Path<EventId>,
    ClientAddr(address): ClientAddr,
    joiner: Option<Joiner>,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let sale = room.sales.get(event_id).await?;
    let shown = sale.shown();
    let snapshot = &shown.view.snapshot;
    if !snapshot.state.is_joinable() {
        metrics::counter!("waiting_room_joins_total", "outcome" => "closed").increment(1);
        return Err(closed(snapshot.state));
    }
    let now = room.ctx.clock.now();
    let (joiner, visitor_token) = identify(&room, snapshot, joiner, now)?;
    let group = AddressGroup::from(address);
    if snapshot.challenge {
        let bearer = challenge::bearer(event_id, joiner, group);
        challenge::take(&room, bearer, &body, now).await?;
    }
    let given = give(&sale, joiner, group).await?;
    // What has happened since belongs to the answer.
    let shown = sale.shown();
    let standing = Standing::of(&shown, given.number);
    sale.asked.see(given.number);
    let claims = claims(&shown.view.snapshot, joiner, given.number, now);
    let answer = Answer {
        queue_token: room.ctx.keys.sign_queue(&claims),
        visitor_token,
        number: given.number,
        place: standing.place,
        state: standing.state,
        ahead: standing.ahead,
        poll_after_ms: poll_after_ms(standing.state, standing.eta, rand::random()),
    };
    let (status, outcome) = if given.is_new {
        (StatusCode::CREATED, "new")
    } else {
        (StatusCode::OK, "repeated")
    };
    metrics::counter!("waiting_room_joins_total", "outcome" => outcome).increment(1);
    Ok((status, [(CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// Who joins, and the token that is given to a new visitor.
fn identify(
    room: &Room,
    snapshot: &Snapshot,
    joiner: Option<Joiner>,
    now: DateTime<Utc>,
) -> Result<(AccountId, Option<String>), Problem> {
    match joiner {
        Some(Joiner { id }) if snapshot.anonymous || !id.is_visitor() => Ok((id, None)),
        None if snapshot.anonymous => {
            let id = AccountId::visitor(rand::random());
            let claims = VisitorClaims {
                iss: ISSUER.to_owned(),
                aud: sale_audience(snapshot.event_id),
                sub: id.to_string(),
                iat: now.timestamp(),
                nbf: now.timestamp(),
                exp: expires_at(snapshot, now),
            };
            Ok((id, Some(room.ctx.keys.sign_visitor(&claims))))
        }
        _ => Err(signed_out()),
    }
}

/// The number of `joiner`; a new one when the one it has is used up.
async fn give(sale: &Sale, joiner: AccountId, group: AddressGroup) -> Result<Given, Problem> {
    let given = sale.joins.join(joiner, group, None).await?;
    if !given.is_new && sale.shown().view.is_used_up(given.number) {
        return sale.joins.join(joiner, group, Some(given.number)).await;
    }
    Ok(given)
}

fn claims(
    snapshot: &Snapshot,
    joiner: AccountId,
    number: Number,
    now: DateTime<Utc>,
) -> QueueClaims {
    let issued = now.timestamp();
    QueueClaims {
        iss: ISSUER.to_owned(),
        aud: sale_audience(snapshot.event_id),
        sub: joiner.to_string(),
        number,
        iat: issued,
        nbf: issued,
        exp: expires_at(snapshot, now),
    }
}

fn expires_at(snapshot: &Snapshot, now: DateTime<Utc>) -> i64 {
    if snapshot.tokens_expire_at > now.timestamp() {
        snapshot.tokens_expire_at
    } else {
        (now + TOKEN_LIFE).timestamp()
    }
}

fn closed(state: SaleState) -> Problem {
    let detail = match state {
        SaleState::Scheduled => "The queue is not open yet.",
        SaleState::SoldOut => "Every ticket is sold.",
        _ => "The sale has ended.",
    };
    Problem::new(Kind::QueueClosed, detail).with("state", state)
}
