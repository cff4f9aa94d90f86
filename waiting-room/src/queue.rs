//! The queue over HTTP.

mod challenge;
mod join;
mod leave;
mod me;
mod shared;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::{get, post};
use domain::queue::PlaceState;
use domain::token::{QueueClaims, subject};
use domain::{AccountId, EventId, Place};
use platform::auth::Caller;
use platform::limits::{Key, Quota};
use platform::problem::{Kind, Problem};
use platform::service::Context;

use crate::views::View;
use crate::{Config, Room};

/// Where the queue token is sent.
pub(crate) const QUEUE_TOKEN: &str = "onsale-queue-token";

/// How often one account may join, or ask for a challenge, in a minute.
const JOINS_PER_ACCOUNT: u32 = 10;
const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn routes(room: Arc<Room>, ctx: &Context, config: &Config) -> Router {
    let per_account = Quota {
        burst: JOINS_PER_ACCOUNT,
        per: MINUTE,
    };
    let per_address = Quota {
        burst: config.joins_per_address,
        per: MINUTE,
    };
    let join = post(join::join)
        .layer(ctx.limits.layer("join", per_account, Key::Account))
        .layer(ctx.limits.layer("join-address", per_address, Key::Address));
    let leave = axum::routing::delete(leave::leave).layer(ctx.limits.layer(
        "leave-address",
        per_address,
        Key::Address,
    ));
    Router::new()
        .route("/api/events/{id}/queue", get(shared::snapshot).merge(join))
        .route(
            "/api/events/{id}/queue/challenge",
            get(challenge::challenge).layer(ctx.limits.layer(
                "challenge",
                per_account,
                Key::Account,
            )),
        )
        .route("/api/events/{id}/queue/me", get(me::me).merge(leave))
        .route("/api/events/{id}/queue/stream", get(stream::stream))
        .with_state(room)
}

/// The holder of a queue token.
struct Holder {
    account_id: AccountId,
    place: Place,
}

/// The holder of the queue token in `headers`, which must be the caller's own for `event_id`'s
/// sale: a token that leaks is of no use to anybody else.
fn holder(
    room: &Room,
    event_id: EventId,
    caller: &Caller,
    headers: &HeaderMap,
) -> Result<Holder, Problem> {
    let token = headers.get(QUEUE_TOKEN).ok_or_else(|| {
        Problem::new(
            Kind::QueueTokenRequired,
            "Join the queue, and send its token as Onsale-Queue-Token.",
        )
    })?;
    let invalid = |detail: String| Problem::new(Kind::QueueTokenInvalid, detail);
    let token = token
        .to_str()
        .map_err(|_| invalid("The queue token can't be read.".to_owned()))?;
    let claims: QueueClaims = room
        .ctx
        .keys
        .verify_queue(token, event_id, room.ctx.clock.now())
        .map_err(|error| invalid(format!("Join the queue again: {error}.")))?;
    let account_id = subject(&claims.sub)
        .ok_or_else(|| invalid("The queue token names no account.".to_owned()))?;
    if account_id != caller.account_id {
        return Err(invalid("The queue token is another account's.".to_owned()));
    }
    Ok(Holder {
        account_id,
        place: claims.place,
    })
}

/// Where `place` stands. Only one that was called is looked up; the others are told from the view.
async fn standing(
    room: &Room,
    event_id: EventId,
    view: &View,
    place: Place,
) -> Result<PlaceState, Problem> {
    if place <= view.snapshot.cursor {
        Ok(room.line.standing(event_id, place).await?)
    } else if view.left.contains(place) {
        Ok(PlaceState::Left)
    } else {
        Ok(PlaceState::Waiting)
    }
}
