//! `DELETE /api/events/{id}`, for staff.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use domain::EventId;
use domain::event::EventState;
use domain::message::EventChanged;
use platform::auth::Caller;
use platform::http::{Json, Path, Query};
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use platform::{outbox, pg};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::{stock, store, unknown_event};
use crate::OWNER;
use crate::audit::{self, Actor};
use crate::sales;
use crate::state::AppState;

/// Treatment of existing bookings.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Bookings {
    /// The event may not have any.
    #[default]
    None,
    /// They are cancelled and refunded.
    Cancel,
}

/// Query parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    #[serde(default)]
    bookings: Bookings,
}

/// Cancels an event and closes its sale. The row stays, in state `cancelled`; repeating the request
/// is a no-op. With `bookings=cancel` the booking worker also cancels existing bookings and those
/// in flight.
///
/// # Errors
/// `forbidden` unless the caller is an organiser or admin; `not-found`, also for another
/// organiser's event; `conflict` while seats are held or sold, unless they are to be cancelled.
pub(super) async fn delete(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path(id): Path<EventId>,
    Query(options): Query<Options>,
) -> Result<impl IntoResponse, Problem> {
    caller.require_event(&state.ctx.db, id, &[]).await?;
    let actor = Actor::Account(caller.account_id);
    pg::run_tx(&state.ctx.db, "delete event", |tx| {
        Box::pin(cancel(tx, &state, id, &options, actor))
    })
    .await?;
    outbox::wake(OWNER);
    Ok(Json(json!({ "message": "success" })))
}

async fn cancel(
    conn: &mut PgConnection,
    state: &AppState,
    id: EventId,
    options: &Options,
    actor: Actor,
) -> Result<(), Refusal> {
    let before = store::lock(conn, id).await?.ok_or_else(unknown_event)?;
    if before.state == EventState::Cancelled {
        return Ok(());
    }
    let stock = stock::total(conn, id).await?.unwrap_or_default();
    let live = stock.held + stock.sold;
    if live > 0 && matches!(options.bookings, Bookings::None) {
        let detail = format!(
            "{live} seats are held or sold. Repeat with ?bookings=cancel to cancel and refund them."
        );
        return Err(Problem::new(Kind::Conflict, detail).into());
    }
    let now = state.ctx.clock.now();
    store::cancel(conn, id, now).await?;
    let event = store::get(conn, id).await?.ok_or_else(unknown_event)?;
    let detail = json!({
        "state": event.state,
        "bookings": options.bookings,
        "held": stock.held,
        "sold": stock.sold,
    });
    audit::put(
        conn,
        actor,
        "event.delete",
        &format!("event:{id}"),
        &detail,
        now,
    )
    .await?;
    outbox::put(conn, OWNER, &EventChanged { event }).await?;
    sales::close(conn, id, actor, now).await
}
