//! The booking API. Admission authorises requests; the booking worker allocates the seats.

mod access;
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

use axum::middleware::from_fn_with_state;
use axum::routing::{get, post, put};
use axum::{Extension, Router};
use platform::limits::{Key, Quota};

pub(crate) use ledger::Ledger;
pub(crate) use lookups::Lookups;

use access::Access;

use crate::Desk;
use crate::release::load;

/// Routes of the public listener: buyers reach their own bookings.
pub(crate) fn routes(desk: &Arc<Desk>) -> Router<Arc<Desk>> {
    bookings(desk, Access::Owner)
}

/// Routes of the internal listener: staff reach the bookings of their events.
pub(crate) fn staff_routes(desk: &Arc<Desk>) -> Router<Arc<Desk>> {
    bookings(desk, Access::Staff)
}

fn bookings(desk: &Arc<Desk>, access: Access) -> Router<Arc<Desk>> {
    let quota = Quota::per_minute(match access {
        Access::Owner => 20,
        Access::Staff => 120,
    });
    let limit = |name| desk.ctx.limits.layer(name, quota, Key::Account);
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
        .layer(Extension(access))
}
