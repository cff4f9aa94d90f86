//! HTTP routes of the queue, and what they share: quotas, the queue token, a number's standing.

mod challenge;
mod found;
mod join;
mod leave;
mod me;
mod shared;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::{delete, get, post};
use chrono::{DateTime, Utc};
use domain::queue::{Eta, PlaceState, Wait, poll_after_ms};
use domain::{AccountId, EventId, Number, Place};
use platform::auth::{Joiner, signed_out};
use platform::limits::{Key, Quota};
use platform::problem::{Kind, Problem};
use platform::service::Context;
use platform::tokens::KeyRing;

use crate::quotas::PER_ACCOUNT;
use crate::sales::Sale;
use crate::shown::Shown;
use crate::{Config, Room};

pub(crate) fn routes(room: Arc<Room>, ctx: &Context, config: &Config) -> Router {
    let leave = delete(leave::leave).layer(ctx.limits.layer(
        "leave-address",
        per_address(config),
        Key::Address,
    ));
    // Visitors who have not joined have no identity yet, and those of an office share an address.
    let per_address = ctx
        .limits
        .layer("challenge-address", per_address(config), Key::Address);
    let per_account = ctx
        .limits
        .layer("challenge", PER_ACCOUNT, Key::AccountAlone);
    let challenge = get(challenge::challenge).layer(per_address.and(&per_account));
    Router::new()
        .route("/api/events/{id}/queue", get(shared::snapshot))
        .route("/api/events/{id}/queue/challenge", challenge)
        .route("/api/events/{id}/queue/me", leave)
        .with_state(room)
}

/// Hot routes, served without a span each: polls, which are nearly all requests; joins, which
/// arrive all at once; and streams, which stay open.
pub(crate) fn quick(room: Arc<Room>, ctx: &Context, config: &Config) -> Router {
    let per_address = ctx
        .limits
        .layer("join-address", per_address(config), Key::Address);
    let per_account = ctx.limits.layer("join", PER_ACCOUNT, Key::AccountAlone);
    let join = post(join::join).layer(per_address.and(&per_account));
    Router::new()
        .route("/api/events/{id}/queue", join)
        .route("/api/events/{id}/queue/me", get(me::me))
        .route("/api/events/{id}/queue/stream", get(stream::stream))
        .with_state(room)
}

fn per_address(config: &Config) -> Quota {
    Quota::per_minute(config.joins_per_address)
}

/// The holder of a queue token.
struct Holder {
    joiner: AccountId,
    number: Number,
}

/// Verifies the queue token in `headers`, which must be the caller's own for `event_id`'s sale.
fn holder(
    keys: &KeyRing,
    event_id: EventId,
    headers: &HeaderMap,
    now: DateTime<Utc>,
) -> Result<Holder, Problem> {
    let joiner = Joiner::of(keys, event_id, headers, now)?.ok_or_else(signed_out)?;
    let number = joiner.number(keys, event_id, headers, now)?;
    Ok(Holder {
        joiner: joiner.id,
        number,
    })
}

/// The standing of a number.
struct Standing {
    place: Option<Place>,
    state: PlaceState,
    /// People ahead; `None` while its place is unknown.
    ahead: Option<i64>,
    wait: Wait,
}

impl Sale {
    /// Returns the standing of `number`, whose count of people ahead never rises.
    fn standing(&self, shown: &Shown, number: Number, now: DateTime<Utc>) -> Standing {
        let mut standing = Standing::of(shown, number, now);
        if let (PlaceState::Waiting, Some(ahead)) = (standing.state, standing.ahead) {
            standing.ahead = Some(self.asked.least(number, ahead));
        }
        standing
    }
}

impl Standing {
    fn of(shown: &Shown, number: Number, now: DateTime<Utc>) -> Self {
        let place = shown.view.place_of(number);
        let state = shown.view.state_at(number, place);
        let is_waiting = state == PlaceState::Waiting;
        let ahead = match place {
            Some(place) if is_waiting => Some(shown.ahead_of(place)),
            Some(_) => Some(0),
            None => None,
        };
        let wait = shown.view.snapshot.wait(ahead, now);
        Self {
            place,
            state,
            ahead,
            wait,
        }
    }

    /// The forecast time until the call, if it waits and the sale is calling.
    fn eta(&self) -> Option<Eta> {
        match self.wait {
            Wait::Call(eta) if self.state == PlaceState::Waiting => Some(eta),
            _ => None,
        }
    }

    fn poll_after_ms(&self) -> u32 {
        poll_after_ms(self.state, self.wait, rand::random())
    }
}
