//! `PUT /api/events/{id}`, for staff.

use std::collections::HashSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use domain::EventId;
use domain::event::{Event, EventState, Section, row_label};
use domain::message::EventChanged;
use platform::auth::Caller;
use platform::http::Path;
use platform::outbox;
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use serde_json::json;
use sqlx::PgConnection;

use super::draft::{Draft, EventBody};
use super::stock::{self, UnavailableSeats};
use super::{EventResponse, store, unknown_event};
use crate::OWNER;
use crate::audit::{self, Actor};
use crate::fields::invalid;
use crate::sales;
use crate::state::AppState;
use crate::write::Posted;

/// Replaces an event. Sections are matched by name and keep their seats, unless `numbered` changes.
///
/// # Errors
/// `forbidden` unless the caller is an organiser or admin; `not-found`, also for another
/// organiser's event; `invalid`; `conflict` when held or sold seats would be removed, the event is
/// cancelled, or its version is not the expected one.
pub(super) async fn replace(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path(id): Path<EventId>,
    Posted { body, repeat }: Posted<EventBody>,
) -> Result<Response, Problem> {
    caller.require_event(&state.ctx.db, id, &[]).await?;
    body.check_whole()?;
    if body.id.is_some_and(|given| given != id.0) {
        return Err(invalid(
            "id",
            "Must equal the id in the path, or be absent.",
        ));
    }
    if body.sale.is_some() {
        let detail = format!("Change the sale with PUT /api/sales/{id}.");
        return Err(invalid("sale", detail));
    }
    let draft = body.draft()?;
    let change = Replacement {
        id,
        draft,
        version: body.version,
        actor: Actor::Account(caller.account_id),
    };
    let who = caller.account_id.to_string();
    let done = state
        .write("replace event", &who, &repeat, &|tx| {
            Box::pin(change.make(tx, &state))
        })
        .await?;
    Ok(done.respond(StatusCode::OK))
}

/// A validated replacement.
struct Replacement {
    id: EventId,
    draft: Draft,
    /// Expected version, for optimistic concurrency control.
    version: Option<i64>,
    actor: Actor,
}

impl Replacement {
    async fn make(
        &self,
        conn: &mut PgConnection,
        state: &AppState,
    ) -> Result<EventResponse, Refusal> {
        let Self {
            id,
            draft,
            version,
            actor,
        } = self;
        let (id, actor) = (*id, *actor);
        let before = store::lock(conn, id).await?.ok_or_else(unknown_event)?;
        check_version(&before, *version)?;
        let taken = stock::unavailable(conn, id).await?;
        for section in &before.sections {
            check_section(section, draft, &taken)?;
        }
        let now = state.ctx.clock.now();
        store::replace(conn, id, draft, now).await?;
        let event = store::get(conn, id).await?.ok_or_else(unknown_event)?;
        let subject = format!("event:{id}");
        audit::put(conn, actor, "event.change", &subject, &json!(event), now).await?;
        outbox::put(
            conn,
            OWNER,
            &EventChanged {
                event: event.clone(),
            },
        )
        .await?;
        // The fields that a sale copies from its event.
        let of_sale = |event: &Event| (event.max_tickets_per_account, event.date);
        if of_sale(&event) != of_sale(&before) {
            sales::follow_event(conn, &event, actor, now).await?;
        }
        Ok(EventResponse { event })
    }
}

fn check_version(event: &Event, expected: Option<i64>) -> Result<(), Problem> {
    if event.state == EventState::Cancelled {
        return Err(conflict("The event is cancelled; create a new one."));
    }
    match expected {
        Some(version) if version != event.version => {
            let now = event.version;
            Err(conflict(format!(
                "The event is at version {now}, not {version}. Reload it and try again."
            )))
        }
        _ => Ok(()),
    }
}

/// Checks that every held or sold seat of `section` exists in the draft. The booking worker never
/// deletes such seats; this check only gives the organiser an early refusal.
fn check_section(
    section: &Section,
    draft: &Draft,
    taken: &[UnavailableSeats],
) -> Result<(), Problem> {
    let Some(taken) = taken.iter().find(|taken| taken.section_id == section.id) else {
        return Ok(());
    };
    let (name, seats) = (&section.name, taken.seats);
    let same = |new: &&Section| new.name == section.name && new.numbered == section.numbered;
    match draft.sections.iter().find(same) {
        Some(new) if has_room(new, taken) => Ok(()),
        Some(_) => Err(conflict(format!(
            "{seats} seats of the section {name} are held or sold; it cannot become smaller."
        ))),
        None => Err(conflict(format!(
            "{seats} seats of the section {name} are held or sold; it cannot be removed."
        ))),
    }
}

fn has_room(section: &Section, taken: &UnavailableSeats) -> bool {
    let (Some(rows), Some(seats_per_row)) = (section.rows, section.seats_per_row) else {
        return section.capacity >= taken.seats;
    };
    let labels: HashSet<String> = (0..rows).map(row_label).collect();
    seats_per_row >= taken.last_number && taken.rows.iter().all(|row| labels.contains(row))
}

fn conflict(detail: impl Into<String>) -> Problem {
    Problem::new(Kind::Conflict, detail)
}
