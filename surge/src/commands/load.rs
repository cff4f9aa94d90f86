//! Load generator: many connections send pre-built requests, in closed or open loop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail};
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::wire::Connection;

/// Upper bound of the latency histogram, in microseconds.
const MAX_LATENCY_US: u64 = 60_000_000;

/// Requests as written to the wire.
pub(super) type Requests = Arc<Vec<Vec<u8>>>;

/// Settings of a run.
#[derive(Debug, Clone)]
pub(super) struct Load {
    pub(super) target: SocketAddr,
    /// Connections that share the requests.
    pub(super) connections: u32,
    pub(super) pace: Pace,
    pub(super) end: End,
}

/// Arrival process of requests.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// Closed loop: a connection sends as soon as it has the previous response.
    Closed,
    /// Open loop at a fixed rate, whether or not the server keeps up.
    Open { per_second: f64 },
}

/// Stop condition.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// After a time; the requests are repeated as needed.
    After(Duration),
    /// After each request has been sent once.
    EachOnce,
}

/// Result of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    /// Responses of status 2xx.
    pub(super) succeeded: u64,
    /// Other responses.
    pub(super) refused: u64,
    /// Status of one of those.
    pub(super) refusal: Option<u16>,
    /// From the first request to the last response.
    pub(super) elapsed: Duration,
    /// In microseconds, from the intended send time to the end of the response, which avoids
    /// coordinated omission.
    pub(super) latency: Histogram<u64>,
}

impl Outcome {
    /// Returns the rate of successful requests, per second.
    pub(super) fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let succeeded = self.succeeded as f64;
        succeeded / self.elapsed.as_secs_f64()
    }

    /// Fails when more than one response in a thousand was a refusal: the rate would be
    /// meaningless.
    pub(super) fn check(self) -> anyhow::Result<Self> {
        if self.refused * 1_000 > self.succeeded {
            let status = self.refusal.unwrap_or_default();
            bail!(
                "{} answers were refusals ({status}), {} were not",
                self.refused,
                self.succeeded
            );
        }
        Ok(self)
    }
}

/// State shared by the connections.
struct Plan {
    requests: Requests,
    next: AtomicU64,
    begun: Instant,
    pace: Pace,
    end: End,
}

/// Sends `requests` by the settings of `load`.
pub(super) async fn run(load: &Load, requests: &Requests) -> anyhow::Result<Outcome> {
    let mut connections = Vec::new();
    for _ in 0..load.connections {
        let connection = Connection::open(load.target).await;
        connections.push(connection.with_context(|| format!("connecting to {}", load.target))?);
    }
    let plan = Arc::new(Plan {
        requests: Arc::clone(requests),
        next: AtomicU64::new(0),
        begun: Instant::now(),
        pace: load.pace,
        end: load.end,
    });
    let mut lanes = JoinSet::new();
    for connection in connections {
        lanes.spawn(drive(connection, Arc::clone(&plan)));
    }
    let mut total = Outcome {
        succeeded: 0,
        refused: 0,
        refusal: None,
        elapsed: Duration::ZERO,
        latency: latencies(),
    };
    while let Some(lane) = lanes.join_next().await {
        let lane = lane??;
        total.succeeded += lane.succeeded;
        total.refused += lane.refused;
        total.refusal = total.refusal.or(lane.refusal);
        total.latency.add(&lane.latency)?;
    }
    total.elapsed = plan.begun.elapsed();
    Ok(total)
}

async fn drive(mut connection: Connection, plan: Arc<Plan>) -> anyhow::Result<Outcome> {
    let mut lane = Outcome {
        succeeded: 0,
        refused: 0,
        refusal: None,
        elapsed: Duration::ZERO,
        latency: latencies(),
    };
    while let Some((request, intended)) = plan.next().await {
        let answer = connection.exchange(request).await?;
        if (200..300).contains(&answer.status) {
            lane.succeeded += 1;
        } else {
            lane.refused += 1;
            lane.refusal = Some(answer.status);
        }
        let micros = u64::try_from(intended.elapsed().as_micros()).unwrap_or(MAX_LATENCY_US);
        lane.latency.saturating_record(micros);
    }
    Ok(lane)
}

impl Plan {
    /// Waits for the next request; returns it with its intended send time.
    async fn next(&self) -> Option<(&[u8], Instant)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let intended = match self.pace {
            Pace::Closed => Instant::now(),
            Pace::Open { per_second } => {
                #[expect(clippy::cast_precision_loss, reason = "far below 2^53 requests")]
                let after = Duration::from_secs_f64(number as f64 / per_second);
                self.begun + after
            }
        };
        match self.end {
            End::After(time) if intended >= self.begun + time => return None,
            End::EachOnce if number >= self.requests.len() as u64 => return None,
            End::After(_) | End::EachOnce => {}
        }
        if matches!(self.pace, Pace::Open { .. }) {
            tokio::time::sleep_until(intended).await;
        }
        let at = usize::try_from(number).ok()? % self.requests.len();
        Some((&self.requests[at], intended))
    }
}

fn latencies() -> Histogram<u64> {
    Histogram::new_with_max(MAX_LATENCY_US, 3).expect("three digits up to a minute fit")
}
