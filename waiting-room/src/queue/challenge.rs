//! `GET /api/events/{id}/queue/challenge`, and the check of its solution.

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

use crate::Room;
use crate::challenge::{Attempts, Bearer, max_number};

pub(super) async fn challenge(
    State(room): State<Arc<Room>>,
    Path(event_id): Path<EventId>,
    ClientAddr(address): ClientAddr,
    joiner: Option<Joiner>,
) -> Result<impl IntoResponse, Problem> {
    // Not every sale asks for one; it does no harm to solve one that is not asked for.
    let shown = room.sales.get(event_id).await?.shown();
    let joiner = match joiner {
        Some(joiner) => joiner.id,
        None if shown.view.snapshot.anonymous => ANY_VISITOR,
        None => return Err(signed_out()),
    };
    let now = room.ctx.clock.now();
    let bearer = bearer(event_id, joiner, address);
    let keys = room.ctx.sale_keys(event_id);
    let asker = asker(joiner, address);
    let attempts = Attempts::count(&room.ctx.redis, &keys, bearer.group, &asker, now).await?;
    let highest = max_number(attempts);
    let number = rand::rng().random_range(0..=highest);
    let given = room
        .challenges
        .give(bearer, highest, number, rand::random(), now);
    metrics::counter!("waiting_room_challenges_total").increment(1);
    Ok(([(CACHE_CONTROL, "no-store")], Json(given)))
}

/// For whom challenges of visitors are: one who has not joined is nobody yet.
const ANY_VISITOR: AccountId = AccountId(0);

/// Who is counted as one: an account, or an address of visitors.
fn asker(joiner: AccountId, address: IpAddr) -> String {
    if joiner == ANY_VISITOR || joiner.is_visitor() {
        address.to_canonical().to_string()
    } else {
        joiner.to_string()
    }
}

/// For whom the challenge of `joiner` is.
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

/// What the body of a join may carry.
#[derive(Deserialize)]
struct Body {
    challenge: Option<String>,
}

/// A solution that was taken.
pub(super) struct Taken(String);

/// Gives back what was taken and brought no number. If Redis does not take it, another challenge is
/// to be solved.
pub(super) async fn give_back(room: &Room, bearer: Bearer, taken: &Taken) {
    let keys = room.ctx.sale_keys(bearer.event_id);
    if let Err(error) = Attempts::give_back(&room.ctx.redis, &keys, &taken.0).await {
        tracing::warn!(%error, "a solved challenge was not given back");
    }
}

/// Takes the solution in `body`, once.
pub(super) async fn take(
    room: &Room,
    bearer: Bearer,
    body: &[u8],
    now: DateTime<Utc>,
) -> Result<Taken, Problem> {
    let solution = serde_json::from_slice(body)
        .ok()
        .and_then(|body: Body| body.challenge)
        .ok_or_else(|| {
            Problem::new(
                Kind::ChallengeRequired,
                "Solve the challenge of this queue, and send the solution as `challenge`.",
            )
        })?;
    let invalid = |why: &dyn std::fmt::Display| {
        let detail = format!("Solve another challenge: {why}.");
        Problem::new(Kind::ChallengeInvalid, detail)
    };
    let id = room
        .challenges
        .check(&solution, bearer, now)
        .map_err(|refusal| invalid(&refusal))?;
    let keys = room.ctx.sale_keys(bearer.event_id);
    if Attempts::redeem(&room.ctx.redis, &keys, &id, now).await? {
        Ok(Taken(id))
    } else {
        Err(invalid(&"it was used already"))
    }
}
