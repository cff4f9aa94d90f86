//! The booking API. Admission decides who may ask; the booking worker decides what they get.

mod answer;
mod cancel;
mod get;
mod ledger;
mod list;
mod lookups;
mod repeat;
mod request;
mod view;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, put};
use platform::limits::{Key, Quota};

pub(crate) use ledger::Ledger;
pub(crate) use lookups::Lookups;

use crate::Desk;
use crate::release::load;

const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn routes(desk: &Arc<Desk>) -> Router<Arc<Desk>> {
    let per_account = Quota {
        burst: 20,
        per: MINUTE,
    };
    let limit = |name| desk.ctx.limits.layer(name, per_account, Key::Account);
    Router::new()
        .route(
            "/api/bookings",
            post(request::request)
                .layer(limit("booking"))
                .layer(from_fn_with_state(Arc::clone(desk), load::count)),
        )
        .route("/api/bookings/{id}", get(get::booking))
        .route("/api/bookings/user/{user_id}", get(list::bookings))
        .route(
            "/api/bookings/{id}/cancel",
            put(cancel::cancel).layer(limit("cancel")),
        )
}
