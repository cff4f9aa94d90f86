//! `DELETE /api/events/{id}/queue/me`: leaves the queue.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use domain::EventId;
use domain::queue::PlaceState;
use platform::http::Path;
use platform::problem::{Kind, Problem};

use super::holder;
use crate::state::AppState;

pub(super) async fn leave(
    State(state): State<Arc<AppState>>,
    Path(event_id): Path<EventId>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let now = state.ctx.clock.now();
    let holder = holder(&state.ctx.keys, event_id, &headers, now)?;
    let sale = state.sales.get(event_id).await?;
    if sale.rendered().view.state_of(holder.number) == PlaceState::Claimed {
        return Err(Problem::new(
            Kind::Conflict,
            "This place has claimed its pass; give the pass back instead.",
        ));
    }
    // A replaced number was used up and is out of the line: the statement ignores it.
    sale.leavings.leave(holder.joiner, holder.number).await?;
    Ok(StatusCode::NO_CONTENT)
}
