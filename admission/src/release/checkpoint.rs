//! Log compaction: the moves of a line up to some seq are replaced by a few equivalent ones, so
//! that a cold reader reads some hundreds of rows, however old the line is.
//!
//! A checkpoint consists of ordinary moves: a reader that folds moves in order need not know about
//! checkpoints, nor whether one replaced moves that it had begun to read.

use domain::EventId;
use domain::line::{Line, Move};
use platform::line::moves::MoveRow;
use sqlx::PgPool;

/// Number of moves since the last checkpoint that triggers the next.
pub(super) const WORTH_WHILE: usize = 512;
/// Maximum number of rows that one transaction replaces.
const MAX_ROWS: usize = 50_000;

/// Replaces moves up to and including `until` by a checkpoint, at most the oldest [`MAX_ROWS`].
/// Returns whether more are left.
pub(super) async fn compact(
    db: &PgPool,
    event_id: EventId,
    until: i64,
) -> Result<bool, sqlx::Error> {
    let mut tx = db.begin().await?;
    // Two concurrent compactions would each fold a part of the moves.
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('admission.moves', $1))",
        event_id.0
    )
    .execute(&mut *tx)
    .await?;
    let mut removed: Vec<Move> = sqlx::query_as!(
        MoveRow,
        "delete from admission.moves where event_id = $1 and seq <= coalesce(
             (select seq from admission.moves where event_id = $1 and seq <= $2
              order by seq offset $3 limit 1), $2)
         returning seq, at, called, missed, claimed, over, left_numbers",
        event_id.0,
        until,
        i64::try_from(MAX_ROWS - 1).expect("thousands"),
    )
    .fetch_all(&mut *tx)
    .await?
    .into_iter()
    .map(Move::from)
    .collect();
    removed.sort_unstable_by_key(|moved| moved.seq);
    let mut line = Line::default();
    for moved in &removed {
        line.apply(moved);
    }
    let checkpoint = if removed.is_empty() {
        Vec::new()
    } else {
        line.checkpoint()
    };
    super::store::append(&mut tx, event_id, &checkpoint).await?;
    tx.commit().await?;
    Ok(removed.len() >= MAX_ROWS)
}
