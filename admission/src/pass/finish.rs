//! `DELETE /api/events/{id}/pass`: ends the pass, which frees its slot at once.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use domain::EventId;
use platform::auth::Joiner;
use platform::http::Path;
use platform::problem::{Kind, Problem};
use uuid::Uuid;

use super::verified;
use crate::state::AppState;

pub(super) async fn finish(
    State(state): State<Arc<AppState>>,
    Path(event_id): Path<EventId>,
    joiner: Joiner,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let pass = verified(&state, event_id, &headers)?;
    if pass.sub != joiner.id.to_string() {
        return Err(Problem::new(
            Kind::PassInvalid,
            "The pass belongs to another account.",
        ));
    }
    // A pass whose id is not a UUID was never claimed here.
    if let Ok(jti) = Uuid::parse_str(&pass.jti) {
        let ended = state.passes.give_back(event_id, jti, None).await?;
        state.revoked.add(ended);
    }
    Ok(StatusCode::NO_CONTENT)
}
