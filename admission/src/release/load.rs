//! Load signals of the AIMD brake: latencies, failure rate and queue ages behind the gate.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use domain::release::Load;
use platform::sync::MutexExt as _;
use sqlx::PgPool;

/// Period at which each node reports its response statistics.
pub(super) const PERIOD: Duration = Duration::from_secs(2);
/// Reports older than this are ignored, in seconds.
const RECENT_SECONDS: f64 = 10.0;
/// A request that has been undecided for longer is lost rather than a sign of load.
const LOST_AFTER: TimeDelta = TimeDelta::minutes(10);
/// Time after acceptance by which `published` is final.
const SETTLE_DELAY: TimeDelta = TimeDelta::seconds(15);
/// Requests examined by one statement.
const SLICE: i64 = 5_000;
/// Minimum sample size for a failure rate and a mean latency.
const MIN_SAMPLE: i64 = 5;

/// Statistics of this node's responses to booking requests since the last report.
#[derive(Debug, Default)]
pub(crate) struct ResponseStats(Mutex<Counts>);

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    answers: i64,
    failures: i64,
    seconds: f64,
}

impl ResponseStats {
    /// Adds a response.
    pub(crate) fn record(&self, is_failure: bool, took: Duration) {
        let mut counts = self.0.lock_unpoisoned();
        counts.answers += 1;
        counts.failures += i64::from(is_failure);
        counts.seconds += took.as_secs_f64();
    }

    /// Stores the statistics for the leader, and resets them.
    pub(super) async fn report(&self, db: &PgPool, node: &str) -> Result<(), sqlx::Error> {
        let counts = {
            let mut counts = self.0.lock_unpoisoned();
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

/// Scan position: booking requests accepted before it are decided.
#[derive(Debug, Clone, Copy, Default)]
pub struct Undecided {
    from: Option<DateTime<Utc>>,
}

impl Undecided {
    /// Returns the age of the oldest published, undecided request, in seconds.
    ///
    /// The scan resumes from the oldest that was undecided last time, in slices: it costs as much
    /// as the requests of some seconds, not as those decided long ago.
    ///
    /// # Errors
    /// When PostgreSQL fails.
    pub async fn oldest_seconds(&mut self, db: &PgPool) -> Result<f64, sqlx::Error> {
        loop {
            let slice = sqlx::query!(
                r#"select clock_timestamp() as "now!", count(*) as "requests!",
                          max(s.accepted_at) as last,
                          min(s.accepted_at) filter (where s.published and d.is_decided is null)
                              as oldest
                   from (select booking_id, published, accepted_at from admission.requests
                         where accepted_at >= coalesce($1::timestamptz, '-infinity')
                           and accepted_at > clock_timestamp() - make_interval(secs => $2)
                         order by accepted_at limit $3) s
                   left join lateral (select true as is_decided from booking.public_bookings b
                                      where b.id = s.booking_id limit 1) d on s.published"#,
                self.from,
                LOST_AFTER.as_seconds_f64(),
                SLICE,
            )
            .fetch_one(db)
            .await?;
            let settled = slice.now - SETTLE_DELAY;
            if let Some(oldest) = slice.oldest {
                self.from = Some(oldest.min(settled));
                return Ok((slice.now - oldest).as_seconds_f64().max(0.0));
            }
            let is_last = slice.requests < SLICE || slice.last == self.from;
            if is_last {
                self.from = Some(settled);
                return Ok(0.0);
            }
            self.from = slice.last;
        }
    }
}

/// Measures the load. PostgreSQL's latency is that of one small query, whose cost depends only on
/// the number of nodes.
///
/// # Errors
/// When PostgreSQL fails.
pub async fn measure(db: &PgPool, undecided: &mut Undecided) -> Result<Load, sqlx::Error> {
    let mut conn = db.acquire().await?;
    let started = Instant::now();
    let answered = sqlx::query!(
        r#"select coalesce(sum(answers), 0)::bigint as "answers!",
                  coalesce(sum(failures), 0)::bigint as "failures!",
                  coalesce(sum(seconds), 0) as "seconds!"
           from admission.answers where at > clock_timestamp() - make_interval(secs => $1)"#,
        RECENT_SECONDS,
    )
    .fetch_one(&mut *conn)
    .await?;
    let database_seconds = started.elapsed().as_secs_f64();
    let payments = sqlx::query!(
        r#"select oldest_seconds as "oldest!", breaker_open as "is_down!"
           from payment.public_backlog"#
    )
    .fetch_one(&mut *conn)
    .await?;
    drop(conn);
    let is_telling = answered.answers >= MIN_SAMPLE;
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let (answers, failures) = (answered.answers.max(1) as f64, answered.failures as f64);
    Ok(Load {
        oldest_booking_seconds: undecided.oldest_seconds(db).await?,
        failures: if is_telling { failures / answers } else { 0.0 },
        answer_seconds: if is_telling {
            answered.seconds / answers
        } else {
            0.0
        },
        oldest_payment_seconds: payments.oldest,
        is_payment_down: payments.is_down,
        database_seconds,
    })
}
