//! HTTP routes of the queue, with their quotas and the check of queue tokens.

mod challenge;
mod join;
mod leave;
mod me;
mod recover;
mod shared;
mod status;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::{delete, get, post};
use chrono::{DateTime, Utc};
use domain::{AccountId, EventId, Number};
use platform::auth::{Joiner, signed_out};
use platform::limits::{Key, Quota};
use platform::problem::Problem;
use platform::service::Context;
use platform::tokens::KeyRing;

use crate::config::Config;
use crate::quotas::PER_ACCOUNT;
use crate::state::AppState;

pub(crate) fn routes(state: Arc<AppState>, ctx: &Context, config: &Config) -> Router {
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
        .with_state(state)
}

/// Hot routes, served without a span each: polls, which are nearly all requests; joins, which
/// arrive all at once; and streams, which stay open.
pub(crate) fn quick(state: Arc<AppState>, ctx: &Context, config: &Config) -> Router {
    let per_address = ctx
        .limits
        .layer("join-address", per_address(config), Key::Address);
    let per_account = ctx.limits.layer("join", PER_ACCOUNT, Key::AccountAlone);
    let join = post(join::join).layer(per_address.and(&per_account));
    Router::new()
        .route("/api/events/{id}/queue", join)
        .route("/api/events/{id}/queue/me", get(me::me))
        .route("/api/events/{id}/queue/stream", get(stream::stream))
        .with_state(state)
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
