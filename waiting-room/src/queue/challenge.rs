//! `GET /api/events/{id}/queue/challenge`: issues a challenge; and redemption of its solution.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::response::IntoResponse;
use chrono::{DateTime, Utc};
use domain::{AccountId, EventId};
use platform::auth::{Joiner, signed_out};
use platform::http::{ClientAddr, Json, Path};
use platform::limits::AddressGroup;
use platform::problem::{Kind, Problem};
use rand::Rng as _;
use serde::Deserialize;

use crate::challenge::{Attempts, Bearer, max_number};
use crate::state::AppState;

pub(super) async fn challenge(
    State(state): State<Arc<AppState>>,
    Path(event_id): Path<EventId>,
    ClientAddr(address): ClientAddr,
    joiner: Option<Joiner>,
) -> Result<impl IntoResponse, Problem> {
    // Issued for every sale: solving one that is not required does no harm.
    let rendered = state.sales.get(event_id).await?.rendered();
    let joiner = match joiner {
        Some(joiner) => joiner.id,
        None if rendered.view.snapshot.anonymous => ANY_VISITOR,
        None => return Err(signed_out()),
    };
    let now = state.ctx.clock.now();
    let bearer = bearer(event_id, joiner, address);
    let keys = state.ctx.sale_keys(event_id);
    let asker = asker(joiner, address);
    let attempts = Attempts::count(&state.ctx.redis, &keys, bearer.group, &asker, now).await?;
    let highest = max_number(attempts);
    let number = rand::rng().random_range(0..=highest);
    let issued = state
        .challenges
        .issue(bearer, highest, number, rand::random(), now);
    metrics::counter!("waiting_room_challenges_total").increment(1);
    Ok(([(CACHE_CONTROL, "no-store")], Json(issued)))
}

/// Bearer of visitors' challenges: a visitor who has not joined has no identity yet.
const ANY_VISITOR: AccountId = AccountId(0);

/// Identity that counts as one asker: an account, or the address of visitors.
fn asker(joiner: AccountId, address: IpAddr) -> String {
    if joiner == ANY_VISITOR || joiner.is_visitor() {
        address.to_canonical().to_string()
    } else {
        joiner.to_string()
    }
}

/// Returns the bearer of `joiner`'s challenges.
pub(super) fn bearer(event_id: EventId, joiner: AccountId, address: IpAddr) -> Bearer {
    let account_id = if joiner.is_visitor() {
        ANY_VISITOR
    } else {
        joiner
    };
    Bearer {
        event_id,
        account_id,
        group: AddressGroup::from(address),
    }
}

/// Optional body of a join.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    /// The solution of a challenge.
    challenge: Option<String>,
}

impl Body {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Problem> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        Json::parse(body).map(|Json(body)| body)
    }
}

/// A redeemed challenge.
pub(super) struct Redeemed(String);

/// Reverts the redemption of a challenge after the join failed. If Redis fails, too, the client
/// must solve another.
pub(super) async fn revert(state: &AppState, bearer: Bearer, redeemed: &Redeemed) {
    let keys = state.ctx.sale_keys(bearer.event_id);
    if let Err(error) = Attempts::revert(&state.ctx.redis, &keys, &redeemed.0).await {
        tracing::warn!(%error, "failed to revert a redeemed challenge");
    }
}

/// Verifies the solution in `body` and redeems it.
pub(super) async fn redeem(
    state: &AppState,
    bearer: Bearer,
    body: &Body,
    now: DateTime<Utc>,
) -> Result<Redeemed, Problem> {
    let solution = body.challenge.as_deref().ok_or_else(|| {
        Problem::new(
            Kind::ChallengeRequired,
            "Solve the challenge of this queue, and send the solution as `challenge`.",
        )
    })?;
    let invalid = |why: &dyn std::fmt::Display| {
        let detail = format!("Solve another challenge: {why}.");
        Problem::new(Kind::ChallengeInvalid, detail)
    };
    let id = state
        .challenges
        .check(solution, bearer, now)
        .map_err(|refusal| invalid(&refusal))?;
    let keys = state.ctx.sale_keys(bearer.event_id);
    if Attempts::redeem(&state.ctx.redis, &keys, &id, now).await? {
        Ok(Redeemed(id))
    } else {
        Err(invalid(&"it has already been used"))
    }
}
