//! `DELETE /api/events/{id}/queue/me`: leave the queue.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use domain::EventId;
use platform::auth::Caller;
use platform::http::Path;
use platform::problem::{Kind, Problem};

use super::holder;
use crate::{Leaving, Room};

pub(super) async fn leave(
    State(room): State<Arc<Room>>,
    Path(event_id): Path<EventId>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let holder = holder(&room, event_id, &caller, &headers)?;
    match room
        .line
        .leave(event_id, holder.account_id, holder.place)
        .await?
    {
        Leaving::Left => Ok(StatusCode::NO_CONTENT),
        Leaving::Claimed => Err(Problem::new(
            Kind::Conflict,
            "The pass of this place is claimed; finish shopping instead.",
        )),
    }
}
