//! SQL of the release loop: for all sales of a tick at once, whatever their number.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::line::{Move, Run};
use domain::queue::Snapshot;
use domain::release::Step;
use domain::{EventId, Number, Place};
use futures_util::TryStreamExt;
use sqlx::PgPool;
use sqlx::types::Json;

/// A line as it was written.
pub(super) struct Written {
    pub(super) claims: i64,
    pub(super) leavings: i64,
    pub(super) snapshot: Json<Snapshot>,
}

/// How far the numbers and leavings of a sale have gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Joined {
    pub(super) joined: i64,
    pub(super) leavings: i64,
}

/// What happened at the gate of a sale.
#[derive(Debug, Default)]
pub(super) struct AtGate {
    pub(super) claimed: Vec<Place>,
    pub(super) over: Vec<Place>,
    /// The last change of a claim, if there was one.
    pub(super) change: Option<i64>,
    pub(super) left: Vec<Number>,
    /// The last change of a leaving, if there was one.
    pub(super) leaving: Option<i64>,
    pub(super) ready: Vec<Place>,
    pub(super) shopping: i64,
    pub(super) claimed_last_minute: i64,
}

/// A line to write, and the seq it had.
pub(super) struct ToWrite {
    pub(super) step: Step,
    pub(super) before: i64,
    pub(super) claims: i64,
    pub(super) leavings: i64,
}

fn ids(events: &[EventId]) -> Vec<i64> {
    events.iter().map(|event| event.0).collect()
}

/// The lines of those `events` that have one.
pub(super) async fn lines(
    db: &PgPool,
    events: &[EventId],
) -> Result<HashMap<EventId, Written>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select event_id, claims, leavings, snapshot as "snapshot: Json<Snapshot>"
           from admission.lines where event_id = any($1)"#,
        &ids(events),
    )
    .fetch_all(db)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| {
            let written = Written {
                claims: row.claims,
                leavings: row.leavings,
                snapshot: row.snapshot,
            };
            (EventId(row.event_id), written)
        })
        .collect())
}

/// What happened in the lines of `events`, in order.
pub(super) async fn moves(
    db: &PgPool,
    events: &[EventId],
) -> Result<HashMap<EventId, Vec<Move>>, sqlx::Error> {
    let ids = ids(events);
    let query = sqlx::query!(
        "select event_id, seq, at, called, missed, claimed, over, left_numbers
         from admission.moves where event_id = any($1) order by event_id, seq",
        &ids,
    );
    let mut rows = query.fetch(db);
    let mut moves: HashMap<EventId, Vec<Move>> = HashMap::new();
    while let Some(row) = rows.try_next().await? {
        let (called, _) = row.called.as_chunks::<2>();
        moves.entry(EventId(row.event_id)).or_default().push(Move {
            seq: row.seq,
            at: row.at,
            called: called
                .iter()
                .map(|[first, last]| Run {
                    first: Place(*first),
                    last: Place(*last),
                })
                .collect(),
            missed: row.missed.into_iter().map(Place).collect(),
            claimed: row.claimed.into_iter().map(Place).collect(),
            over: row.over.into_iter().map(Place).collect(),
            left: row.left_numbers.into_iter().map(Number).collect(),
        });
    }
    Ok(moves)
}

/// How far the numbers of sales have gone that changed after `since`; all for `None`. And the
/// time of the answer.
pub(super) async fn joined(
    db: &PgPool,
    since: Option<DateTime<Utc>>,
) -> Result<(DateTime<Utc>, HashMap<EventId, Joined>), sqlx::Error> {
    let now = crate::store::sales::now(db).await?;
    let rows = sqlx::query!(
        r#"select event_id as "event_id!", joined as "joined!", leavings as "leavings!"
           from waiting_room.public_lines where $1::timestamptz is null or updated_at > $1"#,
        since,
    )
    .fetch_all(db)
    .await?;
    let changed = rows.into_iter().map(|row| {
        let joined = Joined {
            joined: row.joined,
            leavings: row.leavings,
        };
        (EventId(row.event_id), joined)
    });
    Ok((now, changed.collect()))
}

/// What happened at the gates of `known` sales after the changes of claims and leavings that are
/// known of each.
pub(super) async fn at_gates(
    db: &PgPool,
    known: &[(EventId, i64, i64)],
) -> Result<HashMap<EventId, AtGate>, sqlx::Error> {
    let events: Vec<i64> = known.iter().map(|(event, ..)| event.0).collect();
    let claims: Vec<i64> = known.iter().map(|(_, claims, _)| *claims).collect();
    let leavings: Vec<i64> = known.iter().map(|(.., leavings)| *leavings).collect();
    let mut gates: HashMap<EventId, AtGate> = HashMap::new();
    let changed = sqlx::query!(
        r#"select c.event_id, c.place, c.over_at is not null as "is_over!", c.change
           from unnest($1::bigint[], $2::bigint[]) as k (event_id, change)
           join admission.claims c on c.event_id = k.event_id and c.change > k.change"#,
        &events,
        &claims,
    );
    for row in changed.fetch_all(db).await? {
        let gate = gates.entry(EventId(row.event_id)).or_default();
        // An end may come before its claim was told of: then both are.
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
    stand(db, &events, &mut gates).await?;
    Ok(gates)
}

/// Who stands in the ready lines, how many shop, and how many claimed in the last minute.
async fn stand(
    db: &PgPool,
    events: &[i64],
    gates: &mut HashMap<EventId, AtGate>,
) -> Result<(), sqlx::Error> {
    let ready = sqlx::query!(
        "select event_id, place from admission.ready
         where event_id = any($1) and tried_at > clock_timestamp() - make_interval(secs => $2)",
        events,
        domain::gate::PATIENCE.as_seconds_f64(),
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

/// Writes lines and what happened in them, in one transaction. Returns those that were written: a
/// line that a later leader has moved, or that is not as it was left, stays as it is.
pub(super) async fn write(
    db: &PgPool,
    epoch: i64,
    steps: &[ToWrite],
) -> Result<Vec<EventId>, sqlx::Error> {
    let snapshots = || steps.iter().map(|line| &line.step.snapshot);
    let events: Vec<i64> = snapshots().map(|told| told.event_id.0).collect();
    let seqs: Vec<i64> = snapshots().map(|told| told.seq).collect();
    let cursors: Vec<i64> = snapshots().map(|told| told.cursor.0).collect();
    let told: Vec<Json<&Snapshot>> = snapshots().map(Json).collect();
    let before: Vec<i64> = steps.iter().map(|line| line.before).collect();
    let claims: Vec<i64> = steps.iter().map(|line| line.claims).collect();
    let leavings: Vec<i64> = steps.iter().map(|line| line.leavings).collect();
    let mut tx = db.begin().await?;
    sqlx::query!(
        "insert into admission.lines (event_id, snapshot)
         select event_id, snapshot from unnest($1::bigint[], $2::jsonb[]) as u (event_id, snapshot)
         order by event_id on conflict do nothing",
        &events,
        &told as _,
    )
    .execute(&mut *tx)
    .await?;
    let written = sqlx::query_scalar!(
        "update admission.lines l
         set fence = $1, seq = u.seq, cursor = u.cursor, snapshot = u.snapshot,
             claims = u.claims, leavings = u.leavings
         from unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::jsonb[], $6::bigint[],
                     $7::bigint[], $8::bigint[])
              as u (event_id, seq, cursor, snapshot, before, claims, leavings)
         where l.event_id = u.event_id and l.fence <= $1 and l.seq = u.before
         returning l.event_id",
        epoch,
        &events,
        &seqs,
        &cursors,
        &told as _,
        &before,
        &claims,
        &leavings,
    )
    .fetch_all(&mut *tx)
    .await?;
    for line in steps {
        let moved = &line.step.moved;
        let event_id = line.step.snapshot.event_id;
        if written.contains(&event_id.0) && !moved.is_empty() {
            append(&mut tx, event_id, moved).await?;
        }
    }
    tx.commit().await?;
    Ok(written.into_iter().map(EventId).collect())
}

async fn append(
    tx: &mut sqlx::PgConnection,
    event_id: EventId,
    moved: &Move,
) -> Result<(), sqlx::Error> {
    let places = |all: &[Place]| all.iter().map(|place| place.0).collect::<Vec<_>>();
    let runs = moved.called.iter();
    let called: Vec<i64> = runs.flat_map(|run| [run.first.0, run.last.0]).collect();
    let left: Vec<i64> = moved.left.iter().map(|number| number.0).collect();
    sqlx::query!(
        "insert into admission.moves
             (event_id, seq, at, called, missed, claimed, over, left_numbers)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        event_id.0,
        moved.seq,
        moved.at,
        &called,
        &places(&moved.missed),
        &places(&moved.claimed),
        &places(&moved.over),
        &left,
    )
    .execute(tx)
    .await?;
    Ok(())
}
