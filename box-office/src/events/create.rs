//! `POST /api/events`, for staff.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use domain::AccountId;
use domain::message::EventChanged;
use platform::auth::Caller;
use platform::outbox;
use platform::problem::Problem;
use platform::refusal::Refusal;
use serde_json::json;
use sqlx::PgConnection;

use super::draft::{Draft, EventBody};
use super::{EventResponse, require_organiser, store, unknown_event};
use crate::OWNER;
use crate::audit::{self, Actor};
use crate::sales;
use crate::sales::settings::SalePatch;
use crate::state::AppState;
use crate::write::Posted;

/// Creates an event and its sale in one transaction.
///
/// # Errors
/// `forbidden` unless the caller is an organiser or admin; `invalid`; `conflict` for a lottery
/// setting that is not possible.
pub(super) async fn create(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Posted { body, repeat }: Posted<EventBody>,
) -> Result<Response, Problem> {
    require_organiser(&caller)?;
    let draft = body.draft()?;
    let patch = body.sale.unwrap_or_default();
    let (who, creator) = (caller.account_id.to_string(), caller.account_id);
    let done = state
        .write("create event", &who, &repeat, &|tx| {
            Box::pin(insert(tx, &state, &draft, &patch, creator))
        })
        .await?;
    Ok(done.respond(StatusCode::CREATED))
}

async fn insert(
    conn: &mut PgConnection,
    state: &AppState,
    draft: &Draft,
    patch: &SalePatch,
    creator: AccountId,
) -> Result<EventResponse, Refusal> {
    let (now, actor) = (state.ctx.clock.now(), Actor::Account(creator));
    let id = store::insert(conn, draft, creator, now).await?;
    let event = store::get(conn, id).await?.ok_or_else(unknown_event)?;
    let subject = format!("event:{id}");
    audit::put(conn, actor, "event.create", &subject, &json!(event), now).await?;
    outbox::put(
        conn,
        OWNER,
        &EventChanged {
            event: event.clone(),
        },
    )
    .await?;
    sales::open(conn, &event, patch, actor, now).await?;
    Ok(EventResponse { event })
}
