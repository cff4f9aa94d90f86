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
use crate::challenge::Bearer;
use crate::joins::JoinOrigin;
use crate::sales::LiveSale;
use crate::state::AppState;
use crate::store::IssuedNumber;

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
    State(state): State<Arc<AppState>>,
    Path(event_id): Path<EventId>,
    ClientAddr(address): ClientAddr,
    joiner: Option<Joiner>,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let body = challenge::Body::parse(&body)?;
    let sale = state.sales.get(event_id).await?;
    let rendered = sale.rendered();
    let snapshot = &rendered.view.snapshot;
    if !snapshot.state.is_joinable() {
        metrics::counter!("waiting_room_joins_total", "outcome" => "closed").increment(1);
        return Err(closed(snapshot.state));
    }
    let now = state.ctx.clock.now();
    let (joiner, visitor_token) = identify(&state, snapshot, joiner, now)?;
    let from = JoinOrigin {
        group: AddressGroup::from(address),
        lobby: (snapshot.state == SaleState::Lobby).then_some(snapshot.joined.0),
    };
    let issued = if snapshot.challenge {
        let bearer = challenge::bearer(event_id, joiner, address);
        issue_for_work(&state, &sale, joiner, from, bearer, &body).await?
    } else {
        issue(&sale, joiner, from).await?
    };
    // Read again: the response includes what happened during the commit.
    let rendered = sale.rendered();
    let status = sale.status(&rendered, issued.number, now);
    sale.polls.mark_present(issued.number);
    let claims = claims(&rendered.view.snapshot, joiner, issued.number, now);
    let answer = JoinResponse {
        queue_token: state
            .ctx
            .keys
            .sign_queue(&claims, &rendered.view.snapshot.lottery.entries_key),
        visitor_token,
        number: issued.number,
        place: status.place,
        state: status.state,
        ahead: status.ahead,
        poll_after_ms: status.poll_after_ms(),
    };
    let (status, outcome) = if issued.is_new {
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
    state: &AppState,
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
    Ok((id, Some(state.ctx.keys.sign_visitor(&claims))))
}

/// As [`issue`], for the solution in `body`, which is only spent on a number. A joiner that has a
/// usable number gets it without a solution.
async fn issue_for_work(
    state: &AppState,
    sale: &LiveSale,
    joiner: AccountId,
    from: JoinOrigin,
    bearer: Bearer,
    body: &challenge::Body,
) -> Result<IssuedNumber, Problem> {
    let now = state.ctx.clock.now();
    match challenge::redeem(state, bearer, body, now).await {
        Ok(redeemed) => {
            let issued = issue(sale, joiner, from).await;
            if issued.is_err() {
                challenge::revert(state, bearer, &redeemed).await;
            }
            issued
        }
        Err(problem) => {
            let number = sale.lookups.number_of(joiner).await?;
            let is_good = |number: &Number| !sale.rendered().view.is_used_up(*number);
            if number.filter(is_good).is_none() {
                return Err(problem);
            }
            sale.joins.join(joiner, from, None).await
        }
    }
}

/// Returns the number of `joiner`, replacing one that is used up.
async fn issue(
    sale: &LiveSale,
    joiner: AccountId,
    from: JoinOrigin,
) -> Result<IssuedNumber, Problem> {
    let issued = sale.joins.join(joiner, from, None).await?;
    if !issued.is_new && sale.rendered().view.is_used_up(issued.number) {
        return sale.joins.join(joiner, from, Some(issued.number)).await;
    }
    Ok(issued)
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
