//! Whether Stripe seems to be down: one row that all workers share.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

/// So many calls in a row without a certain answer open the breaker.
pub(crate) const THRESHOLD: i32 = 5;

/// While the breaker is open: whether the caller may try one operation now. The next one may try
/// `lease` later.
pub(crate) async fn may_probe(
    pool: &PgPool,
    lease: Duration,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update payment.breaker set open_until = $3 where failures >= $1 and open_until <= $2",
        THRESHOLD,
        now,
        now + lease,
    );
    Ok(done.execute(pool).await?.rows_affected() == 1)
}

/// Whether operations are held back.
pub(crate) async fn is_open(pool: &PgPool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select failures >= $1 as "open!" from payment.breaker"#,
        THRESHOLD
    )
    .fetch_one(pool)
    .await
}

/// Stripe gave a certain answer.
pub(crate) async fn close(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "update payment.breaker set failures = 0, open_until = '-infinity' where failures > 0"
    );
    done.execute(conn).await.map(|_| ())
}

/// Stripe gave none. From the [`THRESHOLD`] on, operations are held back: for 1 s, then twice as
/// long after each failure, half a minute at most.
pub(crate) async fn count_failure(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "update payment.breaker
         set failures = failures + 1,
             open_until = case when failures + 1 < $1 then open_until
                 else $2::timestamptz + least(interval '30 seconds',
                     interval '1 second' * power(2, least(failures + 1 - $1, 5))) end",
        THRESHOLD,
        now,
    );
    done.execute(conn).await.map(|_| ())
}
