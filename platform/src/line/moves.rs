//! Paged reads of the histories of lines: no statement reads more than a bounded number of rows.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::line::{Move, Run};
use domain::{EventId, Number, Place};
use sqlx::PgPool;

/// Fewest rows in the share of one line.
const MIN_ROWS: usize = 64;

/// A part of a line's history: the moves after `after`, up to and with `until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// The sale.
    pub event_id: EventId,
    /// The last seq that is known.
    pub after: i64,
    /// The last seq that is wanted.
    pub until: i64,
}

/// One page of a [`Stretch`].
#[derive(Debug, Default)]
pub struct Piece {
    /// The first moves of the stretch, in order.
    pub moves: Vec<Move>,
    /// Whether it is the last page.
    pub is_last: bool,
}

/// Reads the first moves of each of `stretches` in one statement of about `rows` rows at most,
/// evenly shared. A checkpoint may replace moves between two reads; it has the same effect.
///
/// # Errors
/// When PostgreSQL fails.
pub async fn read(
    db: &PgPool,
    stretches: &[Stretch],
    rows: usize,
) -> Result<HashMap<EventId, Piece>, sqlx::Error> {
    let each = (rows / stretches.len().max(1)).max(MIN_ROWS);
    let ids: Vec<i64> = stretches.iter().map(|part| part.event_id.0).collect();
    let after: Vec<i64> = stretches.iter().map(|part| part.after).collect();
    let until: Vec<i64> = stretches.iter().map(|part| part.until).collect();
    let rows = sqlx::query!(
        r#"select k.event_id as "event_id!", m.seq as "seq!", m.at as "at!",
                  m.called as "called!", m.missed as "missed!", m.claimed as "claimed!",
                  m.over as "over!", m.left_numbers as "left!"
           from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as k (event_id, after, until)
           cross join lateral (
               select seq, at, called, missed, claimed, over, left_numbers
               from admission.public_moves p
               where p.event_id = k.event_id and p.seq > k.after and p.seq <= k.until
               order by p.seq limit $4) m
           order by k.event_id, m.seq"#,
        &ids,
        &after,
        &until,
        i64::try_from(each).unwrap_or(i64::MAX),
    )
    .fetch_all(db)
    .await?;
    let mut pieces: HashMap<EventId, Piece> = stretches
        .iter()
        .map(|part| (part.event_id, Piece::default()))
        .collect();
    for row in rows {
        let piece = pieces.entry(EventId(row.event_id)).or_default();
        let moved = MoveRow {
            seq: row.seq,
            at: row.at,
            called: row.called,
            missed: row.missed,
            claimed: row.claimed,
            over: row.over,
            left_numbers: row.left,
        };
        piece.moves.push(moved.into());
    }
    for piece in pieces.values_mut() {
        piece.is_last = piece.moves.len() < each;
    }
    Ok(pieces)
}

/// A row of `admission.moves`, or of its public view.
#[derive(Debug, sqlx::FromRow)]
pub struct MoveRow {
    /// The move's position in the history of its line.
    pub seq: i64,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// Runs of called places: first, last, first, last, …
    pub called: Vec<i64>,
    /// Places whose claim window went by.
    pub missed: Vec<i64>,
    /// Places that claimed their pass.
    pub claimed: Vec<i64>,
    /// Places whose pass ended.
    pub over: Vec<i64>,
    /// Numbers whose holders left.
    pub left_numbers: Vec<i64>,
}

impl From<MoveRow> for Move {
    fn from(row: MoveRow) -> Self {
        let places = |all: Vec<i64>| all.into_iter().map(Place).collect();
        Self {
            seq: row.seq,
            at: row.at,
            called: runs(&row.called),
            missed: places(row.missed),
            claimed: places(row.claimed),
            over: places(row.over),
            left: row.left_numbers.into_iter().map(Number).collect(),
        }
    }
}

fn runs(ends: &[i64]) -> Vec<Run> {
    let (ends, _) = ends.as_chunks::<2>();
    ends.iter()
        .map(|[first, last]| Run {
            first: Place(*first),
            last: Place(*last),
        })
        .collect()
}
