//! Reads of the release leader's state, through admission's public views.

use std::collections::{HashMap, HashSet};

use domain::EventId;
use domain::queue::Snapshot;
use sqlx::PgPool;
use uuid::Uuid;

/// A line's snapshot, or the error of parsing it, which affects its own line only.
pub(super) type Changed = Result<Snapshot, Unreadable>;

/// A snapshot that can't be read: of another version, perhaps.
#[derive(Debug)]
pub(super) struct Unreadable {
    pub(super) seq: i64,
    pub(super) error: serde_json::Error,
}

/// Changes of lines since a known seq.
pub(super) struct Changes {
    /// Identifies the history of the database; `None` before admission first ran.
    pub(super) generation: Option<Uuid>,
    pub(super) lines: HashMap<EventId, Changed>,
}

/// Returns the snapshots of the lines that changed since their known seq.
///
/// A line and the move of the same seq are committed together, so every move up to the line's seq
/// is there to be read.
pub(super) async fn changes(db: &PgPool, known: &[(EventId, i64)]) -> Result<Changes, sqlx::Error> {
    let (ids, seqs): (Vec<i64>, Vec<i64>) = known.iter().map(|(id, seq)| (id.0, *seq)).unzip();
    let rows = sqlx::query!(
        r#"select (select id from admission.public_generation) as generation,
                  c.event_id as "event_id?", c.seq as "seq?", c.snapshot as "snapshot?"
           from (select) one
           left join (
               select l.event_id, l.seq, l.snapshot::text as snapshot
               from unnest($1::bigint[], $2::bigint[]) as k (event_id, seq)
               join admission.public_lines l on l.event_id = k.event_id and l.seq > k.seq
           ) c on true"#,
        &ids,
        &seqs,
    )
    .fetch_all(db)
    .await?;
    let generation = rows.first().and_then(|row| row.generation);
    let lines = rows.into_iter().filter_map(|row| {
        let (event_id, seq) = (EventId(row.event_id?), row.seq?);
        let snapshot = serde_json::from_str(&row.snapshot?);
        Some((
            event_id,
            snapshot.map_err(|error| Unreadable { seq, error }),
        ))
    });
    Ok(Changes {
        generation,
        lines: lines.collect(),
    })
}

/// Returns those of `events` that have a line.
pub(super) async fn existing(
    db: &PgPool,
    events: &[EventId],
) -> Result<HashSet<EventId>, sqlx::Error> {
    let ids: Vec<i64> = events.iter().map(|event| event.0).collect();
    let rows = sqlx::query_scalar!(
        r#"select event_id as "event_id!" from admission.public_lines where event_id = any($1)"#,
        &ids,
    );
    Ok(rows.fetch_all(db).await?.into_iter().map(EventId).collect())
}
