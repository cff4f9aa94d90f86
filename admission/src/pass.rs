//! Passes: signed, short-lived admission to shop, which any origin can verify offline.

mod batcher;
mod claim;
mod finish;
mod gate;
mod jwks;
pub(crate) mod revoke;
pub(crate) mod shopped;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::{delete, get, post};
use domain::EventId;
use domain::token::PassClaims;
use platform::limits::{Key, Quota};
use platform::pg::Patience;
use platform::problem::{Kind, Problem};
use tokio::time::MissedTickBehavior;

use crate::Desk;

pub use crate::store::gate::{Grant, Refused};
pub(crate) use batcher::ClaimBatcher;
pub use gate::{Claim, Claimant, Passes, Terms};

/// Request header of the pass.
const PASS: &str = "onsale-pass";

/// Sweep period of expired passes.
const END_PERIOD: Duration = Duration::from_millis(500);
const SHORTEST_DEADLINE: Duration = Duration::from_secs(2);
const LONGEST_DEADLINE: Duration = Duration::from_secs(15);

pub(crate) fn routes(desk: &Desk) -> Router<Arc<Desk>> {
    let limits = &desk.ctx.limits;
    let claims = limits.layer("pass", Quota::per_minute(60), Key::Account);
    let finishes = limits.layer("pass-finish", Quota::per_minute(600), Key::Address);
    Router::new()
        .route(
            "/api/events/{id}/pass",
            post(claim::claim)
                .layer(claims)
                .merge(delete(finish::finish).layer(finishes)),
        )
        .route("/.well-known/jwks.json", get(jwks::keys))
}

/// Sweeps expired passes, until dropped.
pub(crate) async fn end_due(passes: &Passes) {
    let mut ticks = tokio::time::interval(END_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut patience = Patience::between(SHORTEST_DEADLINE, LONGEST_DEADLINE);
    loop {
        ticks.tick().await;
        if let Err(error) = patience.bound(Box::pin(passes.end_due())).await {
            tracing::warn!(%error, "failed to end expired passes");
        }
    }
}

/// Verifies the pass in `headers` for `event_id`, without checking whether it was revoked.
///
/// # Errors
/// `pass-required` without one, `pass-invalid` for one that does not verify.
fn verified(desk: &Desk, event_id: EventId, headers: &HeaderMap) -> Result<PassClaims, Problem> {
    let pass = headers.get(PASS).ok_or_else(|| {
        Problem::new(
            Kind::PassRequired,
            "This sale has a queue. Join it, and claim your pass when it is your turn.",
        )
    })?;
    let pass = pass
        .to_str()
        .map_err(|_| Problem::new(Kind::PassInvalid, "The pass can't be read."))?;
    desk.ctx
        .keys
        .verify_pass(pass, event_id, desk.ctx.clock.now())
        .map_err(|error| Problem::new(Kind::PassInvalid, format!("The pass is refused: {error}.")))
}

/// Verifies the pass in `headers` for `event_id`, and that it was not revoked.
///
/// # Errors
/// `pass-required` or `pass-invalid`.
pub(crate) fn admitted(
    desk: &Desk,
    event_id: EventId,
    headers: &HeaderMap,
) -> Result<PassClaims, Problem> {
    let claims = verified(desk, event_id, headers)?;
    if desk.revoked.contains(&claims.jti) {
        return Err(Problem::new(
            Kind::PassInvalid,
            "The pass was given back or revoked.",
        ));
    }
    Ok(claims)
}
