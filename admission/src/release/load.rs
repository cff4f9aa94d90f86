//! How strained is what stands behind the gate: what the brake feels.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use domain::release::Load;
use sqlx::PgPool;

use crate::Desk;

/// How often each node tells how it answered.
pub(super) const PERIOD: Duration = Duration::from_secs(2);
/// What is older says nothing any more, in seconds.
const RECENT_SECONDS: f64 = 10.0;
/// Fewer answers than this say nothing of failures.
const FEWEST_ANSWERS: i64 = 5;

/// How this node answered booking requests since it was written down last.
#[derive(Debug, Default)]
pub(crate) struct Answers(Mutex<Counts>);

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    answers: i64,
    failures: i64,
    seconds: f64,
}

impl Answers {
    fn count(&self, is_failure: bool, took: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.answers += 1;
        counts.failures += i64::from(is_failure);
        counts.seconds += took.as_secs_f64();
    }

    /// Writes down what was counted, for the leader.
    pub(super) async fn tell(&self, db: &PgPool, node: &str) -> Result<(), sqlx::Error> {
        let counts = {
            let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *counts)
        };
        if counts.answers == 0 {
            return Ok(());
        }
        sqlx::query!(
            "insert into admission.answers (node, at, answers, failures, seconds)
             values ($1, clock_timestamp(), $2, $3, $4)
             on conflict (node) do update
             set at = excluded.at, answers = excluded.answers, failures = excluded.failures,
                 seconds = excluded.seconds",
            node,
            counts.answers,
            counts.failures,
            counts.seconds,
        )
        .execute(db)
        .await?;
        Ok(())
    }
}

/// Counts the answers of the routes it is laid over.
pub(crate) async fn count(
    State(desk): State<std::sync::Arc<Desk>>,
    request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let response = next.run(request).await;
    desk.answers
        .count(response.status().is_server_error(), started.elapsed());
    response
}

/// Measures the load; how long this took shows how PostgreSQL does.
pub(super) async fn measure(db: &PgPool) -> Result<Load, sqlx::Error> {
    let mut conn = db.acquire().await?;
    let started = Instant::now();
    let row = sqlx::query!(
        r#"select
               (select coalesce(extract(epoch from clock_timestamp() - min(r.accepted_at)), 0)
                from admission.requests r
                where r.published and r.accepted_at > clock_timestamp() - interval '10 minutes'
                  and not exists (select from booking.public_bookings b where b.id = r.booking_id)
               )::double precision as "oldest_booking!",
               coalesce(a.answers, 0)::bigint as "answers!",
               coalesce(a.failures, 0)::bigint as "failures!",
               coalesce(a.seconds, 0) as "seconds!",
               p.oldest_seconds as "oldest_payment!", p.breaker_open as "is_payment_down!"
           from payment.public_backlog p,
                (select sum(answers) as answers, sum(failures) as failures, sum(seconds) as seconds
                 from admission.answers
                 where at > clock_timestamp() - make_interval(secs => $1)) a"#,
        RECENT_SECONDS,
    )
    .fetch_one(&mut *conn)
    .await?;
    let is_telling = row.answers >= FEWEST_ANSWERS;
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let (answers, failures) = (row.answers.max(1) as f64, row.failures as f64);
    Ok(Load {
        oldest_booking_seconds: row.oldest_booking,
        failures: if is_telling { failures / answers } else { 0.0 },
        answer_seconds: if is_telling {
            row.seconds / answers
        } else {
            0.0
        },
        oldest_payment_seconds: row.oldest_payment,
        is_payment_down: row.is_payment_down,
        database_seconds: started.elapsed().as_secs_f64(),
    })
}
