//! `POST /api/events/{id}/queue`: join.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use domain::queue::{PlaceState, Snapshot, poll_after_ms};
use domain::sale::SaleState;
use domain::token::{ISSUER, QueueClaims, sale_audience};
use domain::{AccountId, EventId, Place};
use platform::auth::Caller;
use platform::http::{ClientAddr, Json, Path, RawBody};
use platform::limits::Quota;
use platform::problem::{Kind, Problem};
use serde::Serialize;

use super::{JOINS_PER_ACCOUNT, MINUTE, challenge, standing};
use crate::Room;
use crate::challenge::Bearer;

/// How long a token lasts at least when the snapshot names a time that is over.
const TOKEN_LIFE: TimeDelta = TimeDelta::hours(24);

#[derive(Serialize)]
struct Answer {
    queue_token: String,
    place: Place,
    state: PlaceState,
    ahead: i64,
    poll_after_ms: u32,
}

pub(super) async fn join(
    State(room): State<Arc<Room>>,
    Path(event_id): Path<EventId>,
    ClientAddr(address): ClientAddr,
    caller: Caller,
    RawBody(body): RawBody,
) -> Result<Response, Problem> {
    let view = room.views.get(event_id).await?;
    if !view.snapshot.state.is_joinable() {
        metrics::counter!("waiting_room_joins_total", "outcome" => "closed").increment(1);
        return Err(closed(view.snapshot.state));
    }
    let now = room.ctx.clock.now();
    let bearer = Bearer {
        event_id,
        account_id: caller.account_id,
        group: address.into(),
    };
    check_limits(&room, bearer, now).await?;
    if view.snapshot.challenge {
        challenge::take(&room, bearer, &body, now).await?;
    }
    let joined = room.line.join(event_id, caller.account_id, now).await?;
    let outcome = if joined.is_new { "new" } else { "repeated" };
    metrics::counter!("waiting_room_joins_total", "outcome" => outcome).increment(1);
    if joined.is_new && view.snapshot.is_idle() {
        room.line.wake(event_id).await;
    }

    let state = standing(&room, event_id, &view, joined.place).await?;
    let ahead = view.ahead_of(joined.place);
    let claims = claims(&view.snapshot, caller.account_id, joined.place, now);
    let answer = Answer {
        queue_token: room.ctx.keys.sign_queue(&claims),
        place: joined.place,
        state,
        ahead,
        poll_after_ms: poll_after_ms(state, view.snapshot.eta(ahead), rand::random()),
    };
    let status = if joined.is_new {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, [(CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// The limits across nodes; those of this node were checked before.
async fn check_limits(room: &Room, bearer: Bearer, now: DateTime<Utc>) -> Result<(), Problem> {
    let keys = room.ctx.sale_keys(bearer.event_id);
    let cells = [
        (
            keys.limit("join-account", bearer.account_id),
            Quota {
                burst: JOINS_PER_ACCOUNT,
                per: MINUTE,
            },
        ),
        (
            keys.limit("join-network", bearer.group),
            Quota {
                burst: room.joins_per_network,
                per: MINUTE,
            },
        ),
    ];
    room.limits.check(&cells, now).await
}

fn claims(
    snapshot: &Snapshot,
    account_id: AccountId,
    place: Place,
    now: DateTime<Utc>,
) -> QueueClaims {
    let issued = now.timestamp();
    let expires = snapshot.tokens_expire_at;
    QueueClaims {
        iss: ISSUER.to_owned(),
        aud: sale_audience(snapshot.event_id),
        sub: account_id.to_string(),
        place,
        iat: issued,
        nbf: issued,
        exp: if expires > issued {
            expires
        } else {
            (now + TOKEN_LIFE).timestamp()
        },
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
