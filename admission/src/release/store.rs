//! SQL of the release loop. Each statement covers all sales of a tick, whatever their number.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use domain::line::Move;
use domain::queue::Snapshot;
use domain::release::Step;
use domain::{EventId, Number, Place};
use serde::Serialize;
use sqlx::PgPool;
use sqlx::types::Json;

use crate::store::position::ReadPosition;

/// A stored line.
pub(super) struct StoredLine {
    pub(super) claims: i64,
    pub(super) leavings: i64,
    pub(super) snapshot: Snapshot,
}

/// The highest number issued in a sale, and the last change of its leavings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct JoinCounts {
    pub(super) joined: i64,
    pub(super) leavings: i64,
}

/// Changes at the gate of a sale since the last step, and its present figures.
#[derive(Debug, Default)]
pub(super) struct GateChanges {
    pub(super) claimed: Vec<Place>,
    pub(super) over: Vec<Place>,
    /// Last change of a claim, if any.
    pub(super) change: Option<i64>,
    pub(super) left: Vec<Number>,
    /// Last change of a leaving, if any.
    pub(super) leaving: Option<i64>,
    pub(super) ready: Vec<Place>,
    pub(super) shopping: i64,
    pub(super) claimed_last_minute: i64,
}

/// A step to write.
pub(super) struct PendingStep {
    pub(super) step: Step,
    /// Fencing token: the epoch of the shard.
    pub(super) epoch: i64,
    /// The seq on which the step was decided; 0 for a new line.
    pub(super) before: i64,
    pub(super) claims: i64,
    pub(super) leavings: i64,
}

fn ids(events: &[EventId]) -> Vec<i64> {
    events.iter().map(|event| event.0).collect()
}

/// Returns the lines of those `events` that have one. An unreadable snapshot only fails its own
/// line.
pub(super) async fn lines(
    db: &PgPool,
    events: &[EventId],
) -> Result<HashMap<EventId, serde_json::Result<StoredLine>>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select event_id, claims, leavings, snapshot::text as "snapshot!"
           from admission.lines where event_id = any($1)"#,
        &ids(events),
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let written = serde_json::from_str(&row.snapshot).map(|snapshot| StoredLine {
                claims: row.claims,
                leavings: row.leavings,
                snapshot,
            });
            (EventId(row.event_id), written)
        })
        .collect())
}

/// Returns those of the ended `events` whose end has been published, with their latest message, and
/// where nobody shops any more.
pub(super) async fn at_rest(
    db: &PgPool,
    events: &[EventId],
) -> Result<HashSet<EventId>, sqlx::Error> {
    let rows = sqlx::query_scalar!(
        "select l.event_id from admission.lines l
         join admission.sales s on s.event_id = l.event_id
         where l.event_id = any($1) and l.snapshot->>'state' = 'closed'
           and l.snapshot->>'shopping' = '0'
           and coalesce(l.snapshot->>'message', '') = coalesce(s.settings->>'message', '')",
        &ids(events),
    );
    Ok(rows.fetch_all(db).await?.into_iter().map(EventId).collect())
}

/// Returns the joins of sales that changed after `since`, all for `None`, and the new read
/// position.
pub(super) async fn joined(
    db: &PgPool,
    since: Option<&ReadPosition>,
) -> Result<(ReadPosition, HashMap<EventId, JoinCounts>), sqlx::Error> {
    let reading = ReadPosition::begin(db).await?;
    let rows = sqlx::query!(
        r#"select event_id as "event_id!", joined as "joined!", leavings as "leavings!"
           from waiting_room.public_lines
           where changed_in >= $1::text::xid8"#,
        reading.first_unseen(since),
    )
    .fetch_all(db)
    .await?;
    let changed = rows.into_iter().map(|row| {
        let joined = JoinCounts {
            joined: row.joined,
            leavings: row.leavings,
        };
        (EventId(row.event_id), joined)
    });
    Ok((reading, changed.collect()))
}

/// Returns the changes at the gates of `known`: each sale with its last seen changes of claims and
/// of leavings.
pub(super) async fn gate_changes(
    db: &PgPool,
    known: &[(EventId, i64, i64)],
) -> Result<HashMap<EventId, GateChanges>, sqlx::Error> {
    let events: Vec<i64> = known.iter().map(|(event, ..)| event.0).collect();
    let claims: Vec<i64> = known.iter().map(|(_, claims, _)| *claims).collect();
    let leavings: Vec<i64> = known.iter().map(|(.., leavings)| *leavings).collect();
    let mut gates: HashMap<EventId, GateChanges> = HashMap::new();
    let changed = sqlx::query!(
        r#"select c.event_id, c.place, c.over_at is not null as "is_over!", c.change
           from unnest($1::bigint[], $2::bigint[]) as k (event_id, change)
           join admission.claims c on c.event_id = k.event_id and c.change > k.change"#,
        &events,
        &claims,
    );
    for row in changed.fetch_all(db).await? {
        let gate = gates.entry(EventId(row.event_id)).or_default();
        // A pass may end before its claim was reported: then both are reported now.
        gate.claimed.push(Place(row.place));
        if row.is_over {
            gate.over.push(Place(row.place));
        }
        gate.change = gate.change.max(Some(row.change));
    }
    let left = sqlx::query!(
        r#"select l.event_id as "event_id!", l.number as "number!", l.change as "change!"
           from unnest($1::bigint[], $2::bigint[]) as k (event_id, change)
           join waiting_room.public_leavings l
             on l.event_id = k.event_id and l.change > k.change"#,
        &events,
        &leavings,
    );
    for row in left.fetch_all(db).await? {
        let gate = gates.entry(EventId(row.event_id)).or_default();
        gate.left.push(Number(row.number));
        gate.leaving = gate.leaving.max(Some(row.change));
    }
    add_figures(db, &events, &mut gates).await?;
    Ok(gates)
}

/// Adds ready lines, counts of shoppers and the last minute's claims.
async fn add_figures(
    db: &PgPool,
    events: &[i64],
    gates: &mut HashMap<EventId, GateChanges>,
) -> Result<(), sqlx::Error> {
    let ready = sqlx::query!(
        "select event_id, place from admission.ready
         where event_id = any($1) and tried_at > clock_timestamp() - make_interval(secs => $2)",
        events,
        domain::gate::RETRY_TIMEOUT.as_seconds_f64(),
    );
    for row in ready.fetch_all(db).await? {
        let gate = gates.entry(EventId(row.event_id)).or_default();
        gate.ready.push(Place(row.place));
    }
    let counts = sqlx::query!(
        r#"select g.event_id, g.shopping,
                  (select coalesce(sum(k.claims), 0) from admission.claim_counts k
                   where k.event_id = g.event_id
                     and k.bucket >= floor(extract(epoch from clock_timestamp()) * 4)::bigint - 240
                  )::bigint as "claims!"
           from admission.gates g where g.event_id = any($1)"#,
        events,
    );
    for row in counts.fetch_all(db).await? {
        let gate = gates.entry(EventId(row.event_id)).or_default();
        gate.shopping = row.shopping.into();
        gate.claimed_last_minute = row.claims;
    }
    Ok(())
}

/// Writes lines and their moves. Returns the lines that were written: one with a higher fencing
/// token, or another seq than the step was decided on, is left as it is.
///
/// It is one statement, so that its locks never depend on this node: between two statements of a
/// transaction they would be held for as long as the node is silent, and its successor would wait.
pub(super) async fn write(
    db: &PgPool,
    steps: &[PendingStep],
) -> Result<HashSet<EventId>, sqlx::Error> {
    let snapshots = || steps.iter().map(|line| &line.step.snapshot);
    let events: Vec<i64> = snapshots().map(|published| published.event_id.0).collect();
    let seqs: Vec<i64> = snapshots().map(|published| published.seq).collect();
    let cursors: Vec<i64> = snapshots().map(|published| published.cursor.0).collect();
    let published: Vec<Json<&Snapshot>> = snapshots().map(Json).collect();
    let epochs: Vec<i64> = steps.iter().map(|line| line.epoch).collect();
    let before: Vec<i64> = steps.iter().map(|line| line.before).collect();
    let claims: Vec<i64> = steps.iter().map(|line| line.claims).collect();
    let leavings: Vec<i64> = steps.iter().map(|line| line.leavings).collect();
    let moves = steps
        .iter()
        .map(|line| (line.step.snapshot.event_id, &line.step.moved))
        .filter(|(_, moved)| !moved.is_empty());
    let written = sqlx::query_scalar!(
        r#"with decided as (
               select * from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[],
                                    $5::jsonb[], $6::bigint[], $7::bigint[], $8::bigint[])
                   as u (epoch, event_id, seq, cursor, snapshot, before, claims, leavings)
           ), inserted as (
               insert into admission.lines
                   (event_id, fence, seq, cursor, snapshot, claims, leavings)
               select event_id, epoch, seq, cursor, snapshot, claims, leavings
               from decided where before = 0 order by event_id
               on conflict do nothing
               returning event_id
           ), updated as (
               update admission.lines l
               set fence = d.epoch, seq = d.seq, cursor = d.cursor, snapshot = d.snapshot,
                   claims = d.claims, leavings = d.leavings
               from decided d
               where l.event_id = d.event_id and l.fence <= d.epoch and l.seq = d.before
               returning l.event_id
           ), written as (
               select event_id from inserted union all select event_id from updated
           ), moved as (
               insert into admission.moves
                   (event_id, seq, at, called, missed, claimed, over, left_numbers)
               select event_id, seq, at, called, missed, claimed, over, left_numbers
               from jsonb_to_recordset($9)
                   as m (event_id bigint, seq bigint, at timestamptz, called bigint[],
                         missed bigint[], claimed bigint[], over bigint[], left_numbers bigint[])
               join written using (event_id)
           )
           select event_id as "event_id!" from written"#,
        &epochs,
        &events,
        &seqs,
        &cursors,
        &published as _,
        &before,
        &claims,
        &leavings,
        rows(moves) as _,
    )
    .fetch_all(db)
    .await?;
    Ok(written.into_iter().map(EventId).collect())
}

/// JSON of a move for `jsonb_to_recordset`, so that one statement inserts those of many lines.
#[derive(Serialize)]
struct Row {
    event_id: EventId,
    seq: i64,
    at: DateTime<Utc>,
    called: Vec<Place>,
    missed: Vec<Place>,
    claimed: Vec<Place>,
    over: Vec<Place>,
    left_numbers: Vec<Number>,
}

fn rows<'a>(moves: impl Iterator<Item = (EventId, &'a Move)>) -> Json<Vec<Row>> {
    let row = |(event_id, moved): (EventId, &Move)| Row {
        event_id,
        seq: moved.seq,
        at: moved.at,
        called: moved
            .called
            .iter()
            .flat_map(|run| [run.first, run.last])
            .collect(),
        missed: moved.missed.clone(),
        claimed: moved.claimed.clone(),
        over: moved.over.clone(),
        left_numbers: moved.left.clone(),
    };
    Json(moves.map(row).collect())
}

/// Inserts moves of a line, in one statement.
pub(super) async fn append(
    tx: &mut sqlx::PgConnection,
    event_id: EventId,
    moves: &[Move],
) -> Result<(), sqlx::Error> {
    if moves.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "insert into admission.moves
             (event_id, seq, at, called, missed, claimed, over, left_numbers)
         select event_id, seq, at, called, missed, claimed, over, left_numbers
         from jsonb_to_recordset($1)
             as m (event_id bigint, seq bigint, at timestamptz, called bigint[], missed bigint[],
                   claimed bigint[], over bigint[], left_numbers bigint[])",
        rows(moves.iter().map(|moved| (event_id, moved))) as _,
    )
    .execute(tx)
    .await?;
    Ok(())
}
