use std::time::{Duration, Instant};

use bytes::Bytes;
use metrics::gauge;
use sqlx::PgPool;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::wake;
use crate::amqp::{Broker, Exchange, Outgoing, PublishError, backoff};
use crate::leased::{self, Claimed, Timing};
use crate::pg::within;

/// Most messages claimed at once.
const BATCH: i64 = 500;
/// Duration of the lease of a claim. Above the publish timeout, or another relay would repeat the
/// messages of a slow one.
pub(super) const LEASE_SECONDS: f64 = 30.0;
const TIMING: Timing = Timing {
    pace: Duration::ZERO,
    idle: Duration::from_millis(200),
};
/// Timeout of one statement.
const STATEMENT_LIMIT: Duration = Duration::from_secs(10);
const LAG_INTERVAL: Duration = Duration::from_secs(10);
/// Upper bound of the backoff of a message that can't be sent.
const MAX_PAUSE: Duration = Duration::from_secs(10);

/// Sends the messages of `owner` until `stop`. Any number of relays may run for one owner. A
/// message is claimed by a lease, sent with no transaction open, and deleted once RabbitMQ has
/// confirmed it; if a relay dies in between, the lease runs out and another sends it again.
///
/// # Errors
/// Never: whatever fails is tried again. The type is that of a task.
pub async fn relay(
    pool: PgPool,
    broker: Broker,
    stop: CancellationToken,
    owner: &'static str,
) -> anyhow::Result<()> {
    let relay = Relay {
        pool,
        broker,
        owner,
        wakes: wake::subscribe(owner),
        lag: LagGauge::new(owner),
    };
    leased::run(relay, TIMING, stop).await
}

struct Relay {
    pool: PgPool,
    broker: Broker,
    owner: &'static str,
    wakes: watch::Receiver<u64>,
    lag: LagGauge,
}

impl leased::Work for Relay {
    fn name(&self) -> &'static str {
        self.owner
    }

    async fn begin_due(&mut self) -> Result<Claimed, sqlx::Error> {
        self.wakes.borrow_and_update();
        let claimed = send_batch(&self.pool, &self.broker, self.owner).await;
        self.lag.update(&self.pool).await;
        let is_full = claimed? == full_batch();
        Ok(if is_full { Claimed::Some } else { Claimed::All })
    }

    async fn woken(&mut self) {
        // The sender lives as long as the process.
        let _ = self.wakes.changed().await;
    }

    /// A batch is finished before the next is claimed.
    async fn drain(self) {}
}

fn full_batch() -> usize {
    usize::try_from(BATCH).expect("a batch is small")
}

/// Claims, publishes and deletes one batch, and returns the number of claimed messages.
async fn send_batch(
    pool: &PgPool,
    broker: &Broker,
    owner: &'static str,
) -> Result<usize, sqlx::Error> {
    let claimed = within(STATEMENT_LIMIT, claim(pool, owner)).await?;
    if claimed.is_empty() {
        return Ok(0);
    }
    let count = claimed.len();
    let Sent { sent, failed } = publish(broker, claimed).await;
    within(STATEMENT_LIMIT, delete(pool, &sent)).await?;
    within(STATEMENT_LIMIT, postpone(pool, owner, failed)).await?;
    Ok(count)
}

/// The outcome of publishing a batch.
pub(super) struct Sent {
    /// RabbitMQ has confirmed these.
    pub(super) sent: Vec<Uuid>,
    /// Those not sent, with the number of attempts and the error.
    pub(super) failed: Vec<(Uuid, u32, PublishError)>,
}

/// Publishes messages whose lease this process holds.
pub(super) async fn publish(broker: &Broker, claimed: Vec<Leased>) -> Sent {
    let marks: Vec<_> = claimed
        .iter()
        .map(|row| (row.message.message_id, row.attempts))
        .collect();
    let results = broker
        .publish_all(claimed.into_iter().map(|row| row.message).collect())
        .await;

    let mut sent = Vec::with_capacity(marks.len());
    let mut failed = Vec::new();
    for ((id, attempts), result) in marks.into_iter().zip(results) {
        match result {
            Ok(()) => sent.push(id),
            Err(error) => failed.push((id, attempts, error)),
        }
    }
    Sent { sent, failed }
}

/// A message whose lease this process holds.
pub(super) struct Leased {
    message: Outgoing,
    attempts: u32,
}

impl Leased {
    /// Creates a first attempt.
    pub(super) fn first(message: Outgoing) -> Self {
        Self {
            message,
            attempts: 1,
        }
    }
}

async fn claim(pool: &PgPool, owner: &'static str) -> Result<Vec<Leased>, sqlx::Error> {
    let rows = sqlx::query!(
        "UPDATE platform.outbox
         SET available_at = now() + make_interval(secs => $3), attempts = attempts + 1
         WHERE id IN (
             SELECT id FROM platform.outbox
             WHERE owner = $1 AND available_at <= now()
             ORDER BY available_at, id
             LIMIT $2
             FOR UPDATE SKIP LOCKED
         )
         RETURNING id, exchange, routing_key, message_name, body::text AS \"body!\", traceparent,
             attempts",
        owner,
        BATCH,
        LEASE_SECONDS,
    )
    .fetch_all(pool)
    .await?;
    let mut claimed: Vec<_> = rows
        .into_iter()
        .map(|row| Leased {
            attempts: u32::try_from(row.attempts).unwrap_or(u32::MAX),
            message: Outgoing {
                exchange: Exchange::parse(&row.exchange).expect("a constraint allows no other"),
                routing_key: row.routing_key,
                name: row.message_name,
                body: Bytes::from(row.body),
                message_id: row.id,
                traceparent: row.traceparent,
            },
        })
        .collect();
    // RETURNING has no order of its own; the ids have that of creation.
    claimed.sort_by_key(|row| row.message.message_id);
    Ok(claimed)
}

pub(super) async fn delete(pool: &PgPool, ids: &[Uuid]) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!("DELETE FROM platform.outbox WHERE id = ANY($1)", ids)
        .execute(pool)
        .await?;
    Ok(())
}

/// Releases the claims on messages that could not be sent, with a backoff for each.
pub(super) async fn postpone(
    pool: &PgPool,
    owner: &'static str,
    failed: Vec<(Uuid, u32, PublishError)>,
) -> Result<(), sqlx::Error> {
    let Some((_, _, error)) = failed.first() else {
        return Ok(());
    };
    tracing::warn!(
        owner,
        messages = failed.len(),
        error = error as &dyn std::error::Error,
        "outbox messages not sent; trying again"
    );
    let (ids, pauses): (Vec<_>, Vec<_>) = failed
        .iter()
        .map(|(id, attempts, _)| (*id, backoff(*attempts).min(MAX_PAUSE).as_secs_f64()))
        .unzip();
    sqlx::query!(
        "UPDATE platform.outbox
         SET available_at = now() + make_interval(secs => failed.pause)
         FROM unnest($1::uuid[], $2::float8[]) AS failed (id, pause)
         WHERE outbox.id = failed.id",
        &ids,
        &pauses,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The age of the oldest message that waits.
struct LagGauge {
    owner: &'static str,
    updated: Option<Instant>,
}

impl LagGauge {
    fn new(owner: &'static str) -> Self {
        Self {
            owner,
            updated: None,
        }
    }

    async fn update(&mut self, pool: &PgPool) {
        if self.updated.is_some_and(|at| at.elapsed() < LAG_INTERVAL) {
            return;
        }
        self.updated = Some(Instant::now());
        let asked = sqlx::query_scalar!(
            "SELECT extract(epoch FROM now() - min(created_at))::float8
             FROM platform.outbox WHERE owner = $1",
            self.owner,
        )
        .fetch_one(pool);
        let asked = within(STATEMENT_LIMIT, asked).await;
        // A database that fails shows in the relay's own log.
        if let Ok(lag) = asked {
            gauge!("outbox_lag_seconds", "owner" => self.owner).set(lag.unwrap_or(0.0).max(0.0));
        }
    }
}
