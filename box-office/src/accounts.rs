//! Accounts, roles and sessions.

pub(crate) mod attempts;
mod change_roles;
pub(crate) mod command_line;
mod confirm;
pub(crate) mod enrol;
mod me;
pub(crate) mod password;
mod refresh;
mod replayed;
mod search;
pub(crate) mod session;
mod sign_in;
mod sign_out;
mod sign_up;
pub(crate) mod store;
pub(crate) mod sweep;

use std::sync::Arc;

use axum::routing::{delete, get, post, put};
use axum::{Extension, Router};
use platform::limits::{Key, Quota};
use platform::service::Routes;

use crate::state::AppState;
use password::HashQueue;

/// Sign-ups per minute, from one address and from one network: many people may share either.
const SIGN_UPS: Quota = Quota::per_minute(300);
/// Sign-ins per address and minute. High, because a campus or a carrier's NAT may be behind one
/// address; guesses are limited per account and per network, see [`attempts`].
const SIGN_INS: Quota = Quota::per_minute(3_000);
/// Refreshes and sign-outs per address and minute: sessions that began together are refreshed
/// together.
const REFRESHES: Quota = Quota::per_minute(6_000);

/// Confirmation codes submitted or requested per account and minute.
const CONFIRMATIONS: Quota = Quota::per_minute(20);

/// Account, role and session routes, with their rate limits.
pub(crate) fn routes(state: &Arc<AppState>) -> Routes {
    let limits = &state.ctx.limits;
    let sign_up = Router::new()
        .route("/api/accounts", post(sign_up::sign_up))
        .route_layer(limits.layer("sign-up", SIGN_UPS, Key::Address));
    let confirmations = Router::new()
        .route("/api/accounts/confirmations", post(confirm::confirm))
        .route(
            "/api/accounts/confirmations/codes",
            post(confirm::send_code),
        )
        .route_layer(limits.layer("confirmation", CONFIRMATIONS, Key::Account));
    let roles = Router::new()
        .route("/api/accounts/{id}/roles", put(change_roles::change_roles))
        .route_layer(state.staff_limit.clone());
    let search = Router::new().route("/api/accounts", get(search::search));
    Routes {
        public: sign_up
            .merge(confirmations)
            .merge(sessions(state, HashQueue::Public))
            .with_state(Arc::clone(state)),
        internal: roles
            .merge(search)
            .merge(sessions(state, HashQueue::Staff))
            .with_state(Arc::clone(state)),
        ..Routes::default()
    }
}

/// Session routes of one listener; staff sign in on the internal one.
fn sessions(state: &AppState, queue: HashQueue) -> Router<Arc<AppState>> {
    let limits = &state.ctx.limits;
    let sign_in = Router::new()
        .route("/api/sessions", post(sign_in::sign_in))
        .route_layer(limits.layer("sign-in", SIGN_INS, Key::Address))
        .layer(Extension(queue));
    let others = Router::new()
        .route("/api/sessions", delete(sign_out::sign_out))
        .route("/api/sessions/refresh", post(refresh::refresh))
        .route_layer(limits.layer("sessions", REFRESHES, Key::Address));
    sign_in.merge(others).route("/api/accounts/me", get(me::me))
}
