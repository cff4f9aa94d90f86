//! Circuit breaker for Stripe: one row that all workers share.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use crate::stripe::Failure;

/// Outages in a row that open the breaker.
pub(crate) const THRESHOLD: i32 = 5;

/// Claims the probe of an open breaker; `false` when it is not due. The next one is due after
/// `lease`.
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

/// Returns `true` if calls are held back.
pub(crate) async fn is_open(pool: &PgPool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select failures >= $1 as "open!" from payment.breaker"#,
        THRESHOLD
    )
    .fetch_one(pool)
    .await
}

/// Accounts for one call: an outage counts, and from the [`THRESHOLD`] on opens the breaker; a
/// certain answer, a refusal included, closes it. Failures of a single call do neither.
pub(crate) async fn record(
    conn: &mut PgConnection,
    failure: Option<&Failure>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    match failure {
        None | Some(Failure::Refused { .. }) => close(conn).await,
        Some(failure) if failure.is_outage() => count_failure(conn, now).await,
        Some(_) => Ok(()),
    }
}

async fn close(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "update payment.breaker set failures = 0, open_until = '-infinity' where failures > 0"
    );
    done.execute(conn).await.map(|_| ())
}

/// Exponential backoff once the breaker is open: 1 s, doubled by each further failure, 30 s at
/// most.
async fn count_failure(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<(), sqlx::Error> {
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

#[cfg(test)]
mod tests {
    use platform::testing::TestApp;

    use super::*;

    #[tokio::test]
    async fn outages_in_a_row_open_the_breaker_and_a_certain_answer_closes_it() {
        let app = TestApp::start().await;
        let (db, now) = (&app.ctx.db, app.ctx.clock.now());
        let mut conn = db.acquire().await.unwrap();
        let outage = Failure::Unknown("no answer".to_owned());
        let refused = Failure::Refused {
            code: "card_declined".to_owned(),
            message: String::new(),
        };
        let locked = Failure::Busy {
            status: 429,
            is_lock: true,
            retry_after: None,
            message: String::new(),
        };
        let mut is_open_after = async |failures: &[Option<&Failure>]| {
            for failure in failures {
                record(&mut conn, *failure, now).await.unwrap();
            }
            is_open(db).await.unwrap()
        };
        for certain in [None, Some(&refused)] {
            assert!(!is_open_after(&[Some(&outage); 4]).await);
            assert!(!is_open_after(&[certain, Some(&outage)]).await, "in a row");
            assert!(!is_open_after(&[Some(&locked); 5]).await);
            assert!(is_open_after(&[Some(&outage); 4]).await);
            assert!(!is_open_after(&[certain]).await);
        }
        drop(conn);
        app.finish().await;
    }
}
