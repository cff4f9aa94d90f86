//! `GET /api/events/{id}/seats`.

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use domain::{EventId, SectionId};
use platform::http::Path;
use platform::problem::Problem;
use serde::Serialize;

use super::stock::{self, RowOfSeats};
use super::{store, unknown_event};
use crate::cached_response::CachedResponse;
use crate::state::AppState;

#[derive(Debug, Serialize)]
struct SeatMap {
    event_id: EventId,
    sections: Vec<SectionSeats>,
}

#[derive(Debug, Serialize)]
struct SectionSeats {
    section_id: SectionId,
    name: String,
    numbered: bool,
    rows: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    /// `None` in a section without numbers.
    row: Option<String>,
    /// Number of the first seat.
    first: i32,
    /// One letter per seat: `a`vailable, `h`eld, `s`old.
    states: String,
    /// Seat ids in the same order, run-length encoded: (first id, count).
    ids: Vec<(i64, u32)>,
}

/// Returns the seat map with each seat's state, at most a second old.
///
/// # Errors
/// `not-found` for an unknown event.
pub(super) async fn seats(
    State(state): State<Arc<AppState>>,
    Path(id): Path<EventId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let loading = || load(Arc::clone(&state), id);
    let answer = state.seats.get(id, loading).await?;
    Ok(answer.ok_or_else(unknown_event)?.respond(&headers))
}

async fn load(state: Arc<AppState>, id: EventId) -> Result<Option<CachedResponse>, Problem> {
    let mut conn = state.ctx.db.acquire().await?;
    let Some(event) = store::get(&mut conn, id).await? else {
        return Ok(None);
    };
    let mut rows: HashMap<i64, Vec<Row>> = HashMap::new();
    for row in stock::rows_of_seats(&mut conn, id).await? {
        rows.entry(row.section_id).or_default().push(row.into());
    }
    let sections = event.sections.into_iter().map(|section| SectionSeats {
        section_id: section.id,
        rows: rows.remove(&section.id.0).unwrap_or_default(),
        name: section.name,
        numbered: section.numbered,
    });
    Ok(Some(
        CachedResponse::json(&SeatMap {
            event_id: id,
            sections: sections.collect(),
        })
        .packed(),
    ))
}

impl From<RowOfSeats> for Row {
    fn from(row: RowOfSeats) -> Self {
        Self {
            row: row.row_label,
            first: row.first.unwrap_or(1),
            states: row.states,
            ids: runs(&row.ids),
        }
    }
}

/// Run-length encodes consecutive ids as (first, count).
fn runs(ids: &[i64]) -> Vec<(i64, u32)> {
    let mut runs: Vec<(i64, u32)> = Vec::new();
    for &id in ids {
        match runs.last_mut() {
            Some((first, count)) if *first + i64::from(*count) == id => *count += 1,
            _ => runs.push((id, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_as_runs() {
        assert_eq!(runs(&[5, 6, 7, 20, 9, 10]), [(5, 3), (20, 1), (9, 2)]);
        assert!(runs(&[]).is_empty());
    }
}
