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

use crate::state::AppState;

pub use crate::store::gate::{Grant, RevokedPass};
pub(crate) use batcher::ClaimBatcher;
pub use gate::{Claim, Claimant, PassTerms, Passes};

/// Request header of the pass.
const PASS: &str = "onsale-pass";

/// Sweep period of expired passes.
const END_PERIOD: Duration = Duration::from_millis(500);
const MIN_DEADLINE: Duration = Duration::from_secs(2);
const MAX_DEADLINE: Duration = Duration::from_secs(15);

pub(crate) fn routes(state: &AppState) -> Router<Arc<AppState>> {
    let limits = &state.ctx.limits;
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
pub(crate) async fn expire_due(passes: &Passes) {
    let mut ticks = tokio::time::interval(END_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut patience = Patience::between(MIN_DEADLINE, MAX_DEADLINE);
    loop {
        ticks.tick().await;
        if let Err(error) = patience.bound(Box::pin(passes.expire_due())).await {
            tracing::warn!(%error, "failed to end expired passes");
        }
    }
}

/// Verifies the pass in `headers` for `event_id`, without checking whether it was revoked.
///
/// # Errors
/// `pass-required` without one, `pass-invalid` for one that does not verify.
fn verified(
    state: &AppState,
    event_id: EventId,
    headers: &HeaderMap,
) -> Result<PassClaims, Problem> {
    let pass = headers.get(PASS).ok_or_else(|| {
        Problem::new(
            Kind::PassRequired,
            "This sale has a queue. Join it, and claim your pass when it is your turn.",
        )
    })?;
    let pass = pass
        .to_str()
        .map_err(|_| Problem::new(Kind::PassInvalid, "The pass can't be read."))?;
    state
        .ctx
        .keys
        .verify_pass(pass, event_id, state.ctx.clock.now())
        .map_err(|error| Problem::new(Kind::PassInvalid, format!("The pass is refused: {error}.")))
}

/// Verifies the pass in `headers` for `event_id`, and that it was not revoked.
///
/// # Errors
/// `pass-required` or `pass-invalid`.
pub(crate) fn admitted(
    state: &AppState,
    event_id: EventId,
    headers: &HeaderMap,
) -> Result<PassClaims, Problem> {
    let claims = verified(state, event_id, headers)?;
    if state.revoked.contains(&claims.jti) {
        return Err(Problem::new(
            Kind::PassInvalid,
            "The pass was given back or revoked.",
        ));
    }
    Ok(claims)
}
