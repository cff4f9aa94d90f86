//! The booking API. Admission decides who may ask; the booking worker decides what they get.

mod answer;
mod cancel;
mod get;
mod ledger;
mod list;
mod repeat;
mod request;
mod view;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post, put};
use platform::idempotency;
use platform::limits::{Key, Quota};

pub(crate) use ledger::Ledger;

use crate::Desk;
use crate::store;

const MINUTE: Duration = Duration::from_secs(60);
/// How often old requests and answers are removed.
const SWEEP_PERIOD: Duration = Duration::from_secs(600);

pub(crate) fn routes(desk: &Desk) -> Router<Arc<Desk>> {
    let per_account = Quota {
        burst: 20,
        per: MINUTE,
    };
    let limit = |name| desk.ctx.limits.layer(name, per_account, Key::Account);
    Router::new()
        .route(
            "/api/bookings",
            post(request::request).layer(limit("booking")),
        )
        .route("/api/bookings/{id}", get(get::booking))
        .route("/api/bookings/user/{user_id}", get(list::bookings))
        .route(
            "/api/bookings/{id}/cancel",
            put(cancel::cancel).layer(limit("cancel")),
        )
}

/// Removes old requests and answers, until soft shutdown.
pub(crate) async fn sweep(desk: Arc<Desk>) -> anyhow::Result<()> {
    let soft = desk.ctx.shutdown.soft().clone();
    let mut ticks = tokio::time::interval(SWEEP_PERIOD);
    while soft.run_until_cancelled(ticks.tick()).await.is_some() {
        let now = desk.ctx.clock.now();
        if let Err(error) = store::requests::sweep(&desk.ctx.db, now).await {
            tracing::warn!(%error, "old booking requests were not removed");
        }
        if let Err(error) = idempotency::sweep(&desk.ctx.db, now).await {
            tracing::warn!(%error, "old answers were not removed");
        }
    }
    Ok(())
}
