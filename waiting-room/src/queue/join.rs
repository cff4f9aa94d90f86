//! `POST /api/events/{id}/queue`: joins the queue. Idempotent per account.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use domain::queue::{PlaceState, Snapshot};
use domain::sale::SaleState;
use domain::token::{ISSUER, QueueClaims, VisitorClaims, sale_audience};
use domain::{AccountId, EventId, Number, Place};
use platform::auth::{Joiner, signed_out};
use platform::http::{ClientAddr, Json, Path, RawBody};
use platform::limits::AddressGroup;
use platform::problem::{Kind, Problem};
use serde::Serialize;

use super::challenge;
use crate::Room;
use crate::challenge::Bearer;
use crate::joins::Origin;
use crate::sales::Sale;
use crate::store::Given;

/// Lifetime of a token when the snapshot's expiry has passed.
const TOKEN_LIFE: TimeDelta = TimeDelta::hours(24);

#[derive(Serialize)]
struct JoinResponse {
    queue_token: String,
    /// For visitors, renewed with each join so that it lasts as long as the queue token.
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
    let body = challenge::Body::parse(&body)?;
    let sale = room.sales.get(event_id).await?;
    let shown = sale.shown();
    let snapshot = &shown.view.snapshot;
    if !snapshot.state.is_joinable() {
        metrics::counter!("waiting_room_joins_total", "outcome" => "closed").increment(1);
        return Err(closed(snapshot.state));
    }
    let now = room.ctx.clock.now();
    let (joiner, visitor_token) = identify(&room, snapshot, joiner, now)?;
    let from = Origin {
        group: AddressGroup::from(address),
        lobby: (snapshot.state == SaleState::Lobby).then_some(snapshot.joined.0),
    };
    let given = if snapshot.challenge {
        let bearer = challenge::bearer(event_id, joiner, address);
        give_for_work(&room, &sale, joiner, from, bearer, &body).await?
    } else {
        give(&sale, joiner, from).await?
    };
    // Read again: the response includes what happened during the commit.
    let shown = sale.shown();
    let standing = sale.standing(&shown, given.number, now);
    sale.asked.see(given.number);
    let claims = claims(&shown.view.snapshot, joiner, given.number, now);
    let answer = JoinResponse {
        queue_token: room
            .ctx
            .keys
            .sign_queue(&claims, &shown.view.snapshot.lottery.entries_key),
        visitor_token,
        number: given.number,
        place: standing.place,
        state: standing.state,
        ahead: standing.ahead,
        poll_after_ms: standing.poll_after_ms(),
    };
    let (status, outcome) = if given.is_new {
        (StatusCode::CREATED, "new")
    } else {
        (StatusCode::OK, "repeated")
    };
    metrics::counter!("waiting_room_joins_total", "outcome" => outcome).increment(1);
    Ok((status, [(CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// Returns the joiner's id, and for a visitor a token: a new one each time, since the sale's end
/// may have moved since the last was signed.
fn identify(
    room: &Room,
    snapshot: &Snapshot,
    joiner: Option<Joiner>,
    now: DateTime<Utc>,
) -> Result<(AccountId, Option<String>), Problem> {
    let id = match joiner {
        Some(Joiner { id }) if !id.is_visitor() => return Ok((id, None)),
        Some(Joiner { id }) if snapshot.anonymous => id,
        None if snapshot.anonymous => AccountId::visitor(rand::random()),
        _ => return Err(signed_out()),
    };
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

/// As [`give`], for the solution in `body`, which is only spent on a number. A joiner that has a
/// usable number gets it without a solution.
async fn give_for_work(
    room: &Room,
    sale: &Sale,
    joiner: AccountId,
    from: Origin,
    bearer: Bearer,
    body: &challenge::Body,
) -> Result<Given, Problem> {
    let now = room.ctx.clock.now();
    match challenge::take(room, bearer, body, now).await {
        Ok(taken) => {
            let given = give(sale, joiner, from).await;
            if given.is_err() {
                challenge::give_back(room, bearer, &taken).await;
            }
            given
        }
        Err(problem) => {
            let number = sale.lookups.number_of(joiner).await?;
            let is_good = |number: &Number| !sale.shown().view.is_used_up(*number);
            if number.filter(is_good).is_none() {
                return Err(problem);
            }
            sale.joins.join(joiner, from, None).await
        }
    }
}

/// Returns the number of `joiner`, replacing one that is used up.
async fn give(sale: &Sale, joiner: AccountId, from: Origin) -> Result<Given, Problem> {
    let given = sale.joins.join(joiner, from, None).await?;
    if !given.is_new && sale.shown().view.is_used_up(given.number) {
        return sale.joins.join(joiner, from, Some(given.number)).await;
    }
    Ok(given)
}

pub(super) fn claims(
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
        SaleState::SoldOut => "The event is sold out.",
        _ => "The sale has ended.",
    };
    Problem::new(Kind::QueueClosed, detail).with("state", state)
}
