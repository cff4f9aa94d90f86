//! Periodic work that one worker does for all: a lease by due date.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgPool;

/// Claims a due chore and moves its due date by `every`; `false` when it is not due, or another
/// worker has claimed it. A new chore is due after `every`. A worker that dies leaves it to the
/// next turn.
pub(crate) async fn claim(
    pool: &PgPool,
    name: &str,
    every: Duration,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let is_due = sqlx::query_scalar!(
        r#"insert into payment.chores as chore (name, due_at) values ($1, $3)
           on conflict (name) do update set due_at = $3 where chore.due_at <= $2
           returning xmax <> 0 as "is_due!""#,
        name,
        now,
        now + every,
    );
    Ok(is_due.fetch_optional(pool).await?.unwrap_or(false))
}
