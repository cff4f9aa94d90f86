//! Accounts, roles and sessions.

mod change_roles;
pub(crate) mod command_line;
mod me;
pub(crate) mod password;
mod refresh;
mod search;
pub(crate) mod session;
mod sign_in;
mod sign_out;
mod sign_up;
pub(crate) mod store;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{delete, get, post, put};
use platform::limits::{Key, Quota};
use platform::service::Routes;

use crate::office::Office;

const MINUTE: Duration = Duration::from_secs(60);

/// Most sign-ups from one address a minute.
const SIGN_UPS: Quota = Quota {
    burst: 20,
    per: MINUTE,
};
/// Most sign-ins from one address a minute: each guess at a password is one.
const SIGN_INS: Quota = Quota {
    burst: 10,
    per: MINUTE,
};
/// Most refreshes and sign-outs from one address a minute; many people may share one address.
const REFRESHES: Quota = Quota {
    burst: 120,
    per: MINUTE,
};

/// The routes of this part.
pub(crate) fn routes(office: &Arc<Office>) -> Routes {
    let limits = &office.ctx.limits;
    let sign_up = Router::new()
        .route("/api/accounts", post(sign_up::sign_up))
        .route_layer(limits.layer("sign-up", SIGN_UPS, Key::Address));
    let roles = Router::new()
        .route("/api/accounts/{id}/roles", put(change_roles::change_roles))
        .route_layer(office.staff_limit.clone());
    let search = Router::new().route("/api/accounts", get(search::search));
    Routes {
        public: sign_up
            .merge(sessions(office))
            .with_state(Arc::clone(office)),
        internal: roles
            .merge(search)
            .merge(sessions(office))
            .with_state(Arc::clone(office)),
        ..Routes::default()
    }
}

/// What both listeners have: staff sign in on the internal one.
fn sessions(office: &Office) -> Router<Arc<Office>> {
    let limits = &office.ctx.limits;
    let sign_in = Router::new()
        .route("/api/sessions", post(sign_in::sign_in))
        .route_layer(limits.layer("sign-in", SIGN_INS, Key::Address));
    let others = Router::new()
        .route("/api/sessions", delete(sign_out::sign_out))
        .route("/api/sessions/refresh", post(refresh::refresh))
        .route_layer(limits.layer("sessions", REFRESHES, Key::Address));
    sign_in.merge(others).route("/api/accounts/me", get(me::me))
}
