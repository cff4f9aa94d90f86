//! Fixtures that write a line's snapshot and moves to PostgreSQL, as the release leader does.

use chrono::{DateTime, Utc};
use domain::line::Move;
use domain::queue::{BrakeState, Lottery, Pace, Snapshot};
use domain::sale::SaleState;
use domain::{EventId, Place};
use sqlx::PgPool;

/// The snapshot at `at` of an open sale that nobody has joined.
#[must_use]
pub fn snapshot(event_id: EventId, at: DateTime<Utc>) -> Snapshot {
    Snapshot {
        event_id,
        seq: 1,
        at,
        state: SaleState::Open,
        message: String::new(),
        challenge: false,
        anonymous: false,
        lottery: Lottery::default(),
        opens_at: None,
        lobby_opens_at: None,
        closes_at: None,
        claim_window_seconds: 120,
        rate_per_minute: 600,
        joined: Place(0),
        cursor: Place(0),
        left: 0,
        waiting: 0,
        shopping: 0,
        shopper_cap: 100,
        claimed_last_minute: 0,
        available: Some(10),
        likely_until: None,
        ahead: domain::ahead::Ahead::default(),
        pace: Some(Pace {
            p50_per_hour: 36_000,
            p90_per_hour: 27_000,
        }),
        brake: BrakeState::default(),
        tokens_expire_at: at.timestamp() + 3_600,
        poll_after_ms: 2_000,
    }
}

/// Writes `snapshot` and the move of the same `seq` in one transaction, as the leader does.
///
/// # Panics
/// When PostgreSQL refuses.
pub async fn publish(db: &PgPool, snapshot: &Snapshot, moved: &Move) {
    assert_eq!(snapshot.seq, moved.seq, "they are published together");
    let places = |all: &[Place]| all.iter().map(|place| place.0).collect::<Vec<_>>();
    let called: Vec<i64> = moved
        .called
        .iter()
        .flat_map(|run| [run.first.0, run.last.0])
        .collect();
    let left: Vec<i64> = moved.left.iter().map(|number| number.0).collect();
    let mut tx = db.begin().await.expect("PostgreSQL is up");
    sqlx::query(
        "insert into admission.lines (event_id, seq, cursor, snapshot) values ($1, $2, $3, $4)
         on conflict (event_id) do update
         set seq = excluded.seq, cursor = excluded.cursor, snapshot = excluded.snapshot",
    )
    .bind(snapshot.event_id.0)
    .bind(snapshot.seq)
    .bind(snapshot.cursor.0)
    .bind(sqlx::types::Json(snapshot))
    .execute(&mut *tx)
    .await
    .expect("a line is written");
    sqlx::query(
        "insert into admission.moves
             (event_id, seq, at, called, missed, claimed, over, left_numbers)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(snapshot.event_id.0)
    .bind(moved.seq)
    .bind(moved.at)
    .bind(called)
    .bind(places(&moved.missed))
    .bind(places(&moved.claimed))
    .bind(places(&moved.over))
    .bind(left)
    .execute(&mut *tx)
    .await
    .expect("a move is written");
    tx.commit().await.expect("PostgreSQL is up");
}
