//! SQL of the revocation list: passes that ended before their expiry.

use std::collections::HashMap;

use domain::EventId;
use domain::token::LEEWAY_SECONDS;
use sqlx::PgPool;

use super::gate::RevokedPass;

/// Read position: the last change seen of each sale's gate.
pub(crate) type ReadPositions = HashMap<EventId, i64>;

/// Returns the read position and every ended pass that has not expired at `now`, in Unix seconds.
pub(crate) async fn all(
    db: &PgPool,
    now: i64,
) -> Result<(ReadPositions, Vec<RevokedPass>), sqlx::Error> {
    // Positions first: a change in between is read twice rather than never.
    let gates = sqlx::query!("select event_id, changes from admission.gates")
        .fetch_all(db)
        .await?;
    let rows = sqlx::query!(
        "select jti, ends_at from admission.claims
         where over_at is not null and ends_at > $1 and extract(epoch from over_at) < ends_at + $2",
        now - LEEWAY_SECONDS.cast_signed(),
        LEEWAY_SECONDS.cast_signed(),
    )
    .fetch_all(db)
    .await?;
    let changes = gates
        .into_iter()
        .map(|gate| (EventId(gate.event_id), gate.changes))
        .collect();
    let refused = rows
        .into_iter()
        .map(|row| RevokedPass {
            jti: row.jti,
            ends_at: row.ends_at,
        })
        .collect();
    Ok((changes, refused))
}

/// Returns the passes that ended since `known`, and advances it.
pub(crate) async fn since(
    db: &PgPool,
    known: &mut ReadPositions,
    now: i64,
) -> Result<Vec<RevokedPass>, sqlx::Error> {
    let (events, changes): (Vec<i64>, Vec<i64>) = known
        .iter()
        .map(|(event, change)| (event.0, *change))
        .unzip();
    let rows = sqlx::query!(
        r#"select g.event_id as "event_id!", g.changes as "changes!", c.jti as "jti?", c.ends_at as "ends_at?"
           from admission.gates g
           left join unnest($1::bigint[], $2::bigint[]) as k (event_id, changes)
             on k.event_id = g.event_id
           left join admission.claims c
             on c.event_id = g.event_id and c.change > coalesce(k.changes, 0)
            and c.over_at is not null and c.ends_at > $3
            and extract(epoch from c.over_at) < c.ends_at + $4
           where g.changes > coalesce(k.changes, 0)"#,
        &events,
        &changes,
        now - LEEWAY_SECONDS.cast_signed(),
        LEEWAY_SECONDS.cast_signed(),
    )
    .fetch_all(db)
    .await?;
    let mut refused = Vec::new();
    for row in rows {
        known.insert(EventId(row.event_id), row.changes);
        if let (Some(jti), Some(ends_at)) = (row.jti, row.ends_at) {
            refused.push(RevokedPass { jti, ends_at });
        }
    }
    Ok(refused)
}
