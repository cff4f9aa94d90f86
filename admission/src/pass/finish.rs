//! `DELETE /api/events/{id}/pass`: finished shopping; the slot returns at once.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use domain::EventId;
use platform::auth::Caller;
use platform::http::Path;
use platform::problem::{Kind, Problem};

use super::verified;
use crate::Desk;

pub(super) async fn finish(
    State(desk): State<Arc<Desk>>,
    Path(event_id): Path<EventId>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let pass = verified(&desk, event_id, &headers)?;
    if pass.sub != caller.account_id.to_string() {
        return Err(Problem::new(
            Kind::PassInvalid,
            "The pass is another account's.",
        ));
    }
    // First, so that the slot is never another's while the pass is still good. A crash in between
    // leaves the slot taken until the pass ends, or until this is repeated.
    desk.revoked
        .add(&pass.jti, pass.exp, desk.ctx.clock.now())
        .await?;
    desk.passes.finish(event_id, pass.place, &pass.jti).await?;
    Ok(StatusCode::NO_CONTENT)
}
