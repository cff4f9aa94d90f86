//! `PUT /api/sales/{event_id}`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use domain::EventId;
use platform::auth::Caller;
use platform::http::Path;
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::settings::SalePatch;
use super::{Sale, lottery, record, require_operator, store, unknown_sale};
use crate::audit::Actor;
use crate::events::stock;
use crate::state::AppState;
use crate::write::Posted;

#[derive(Debug, Serialize, Deserialize)]
struct SaleResponse {
    sale: Sale,
}

/// Changes the given settings and keeps the others. A no-op does not increment the version.
///
/// # Errors
/// `forbidden` unless the caller is an operator or admin, `not-found`, `invalid`, and `conflict`
/// when the event is cancelled, the version is not the expected one, or the lottery or sold seats
/// forbid the change.
pub(super) async fn put(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path(id): Path<EventId>,
    Posted {
        body: patch,
        repeat,
    }: Posted<SalePatch>,
) -> Result<Response, Problem> {
    require_operator(&caller)?;
    patch.require_any_setting()?;
    let (who, actor) = (
        caller.account_id.to_string(),
        Actor::Account(caller.account_id),
    );
    let done = state
        .write("change sale", &who, &repeat, &|tx| {
            Box::pin(change(tx, &state, id, &patch, actor))
        })
        .await?;
    Ok(done.respond(StatusCode::OK))
}

async fn change(
    conn: &mut PgConnection,
    state: &AppState,
    id: EventId,
    patch: &SalePatch,
    actor: Actor,
) -> Result<SaleResponse, Refusal> {
    let now = state.ctx.clock.now();
    let before = store::lock(conn, id).await?.ok_or_else(unknown_sale)?;
    patch.check_version(&before)?;
    if store::is_event_cancelled(conn, id).await? {
        return Err(cancelled().into());
    }
    let mut settings = before.clone();
    patch.apply(&mut settings, "")?;
    lottery::check(conn, Some(&before), &settings, now).await?;
    if settings != before {
        settings = store::update(conn, &settings, now).await?;
        record(conn, &settings, "sale.change", &json!(patch), actor, now).await?;
    }
    let stock = stock::total(conn, id).await?;
    Ok(SaleResponse {
        sale: Sale::at(settings, now, stock),
    })
}

fn cancelled() -> Problem {
    Problem::new(
        Kind::Conflict,
        "The event is cancelled; its sale cannot be changed.",
    )
}
