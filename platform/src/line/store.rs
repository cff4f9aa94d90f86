//! What the release leader wrote, read through admission's public views.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::line::{Move, Run};
use domain::queue::Snapshot;
use domain::{EventId, Number, Place};
use futures_util::TryStreamExt;
use serde_json::Value;
use sqlx::PgPool;

/// Before every seq.
pub(super) const NEVER_READ: i64 = -1;

/// What happened in one line.
pub(super) struct Change {
    pub(super) snapshot: Snapshot,
    /// In order.
    pub(super) moves: Vec<Move>,
}

/// What happened in each line after the seq that is known; a line without news is left out.
///
/// A line and the move of the same seq are committed together, so every move up to the line's seq
/// is there to be read.
pub(super) async fn changes_since(
    db: &PgPool,
    known: &[(EventId, i64)],
) -> Result<HashMap<EventId, Change>, sqlx::Error> {
    let (ids, after): (Vec<i64>, Vec<i64>) = known.iter().map(|(id, seq)| (id.0, *seq)).unzip();
    let lines = sqlx::query!(
        r#"select l.event_id as "event_id!", l.snapshot as "snapshot!: Value", k.seq as "after!"
           from unnest($1::bigint[], $2::bigint[]) as k (event_id, seq)
           join admission.public_lines l on l.event_id = k.event_id and l.seq > k.seq"#,
        &ids,
        &after,
    )
    .fetch_all(db)
    .await?;
    let mut changes = HashMap::with_capacity(lines.len());
    let (mut ids, mut after, mut until) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        let event_id = EventId(line.event_id);
        match serde_json::from_value::<Snapshot>(line.snapshot) {
            Ok(snapshot) => {
                ids.push(event_id.0);
                after.push(line.after);
                until.push(snapshot.seq);
                let moves = Vec::new();
                changes.insert(event_id, Change { snapshot, moves });
            }
            // Of another version, perhaps; the other lines go on.
            Err(error) => tracing::error!(%event_id, %error, "the snapshot can't be read"),
        }
    }
    if !ids.is_empty() {
        read_moves(db, [&ids, &after, &until], &mut changes).await?;
    }
    Ok(changes)
}

async fn read_moves(
    db: &PgPool,
    [ids, after, until]: [&[i64]; 3],
    changes: &mut HashMap<EventId, Change>,
) -> Result<(), sqlx::Error> {
    let mut rows = sqlx::query_as!(
        Row,
        r#"select m.event_id as "event_id!", m.seq as "seq!", m.at as "at!",
                  m.called as "called!", m.missed as "missed!", m.claimed as "claimed!",
                  m.over as "over!", m.left_numbers as "left!"
           from unnest($1::bigint[], $2::bigint[], $3::bigint[]) as k (event_id, after, until)
           join admission.public_moves m
             on m.event_id = k.event_id and m.seq > k.after and m.seq <= k.until
           order by m.event_id, m.seq"#,
        ids,
        after,
        until,
    )
    .fetch(db);
    while let Some(row) = rows.try_next().await? {
        if let Some(change) = changes.get_mut(&EventId(row.event_id)) {
            change.moves.push(row.into());
        }
    }
    Ok(())
}

struct Row {
    event_id: i64,
    seq: i64,
    at: DateTime<Utc>,
    called: Vec<i64>,
    missed: Vec<i64>,
    claimed: Vec<i64>,
    over: Vec<i64>,
    left: Vec<i64>,
}

impl From<Row> for Move {
    fn from(row: Row) -> Self {
        let places = |all: Vec<i64>| all.into_iter().map(Place).collect();
        Self {
            seq: row.seq,
            at: row.at,
            called: row
                .called
                .chunks_exact(2)
                .map(|ends| Run {
                    first: Place(ends[0]),
                    last: Place(ends[1]),
                })
                .collect(),
            missed: places(row.missed),
            claimed: places(row.claimed),
            over: places(row.over),
            left: row.left.into_iter().map(Number).collect(),
        }
    }
}
