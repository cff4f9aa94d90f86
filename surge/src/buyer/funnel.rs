//! How far the buyers came, and how long the steps took.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// A step on the way to a ticket, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Has an account.
    SignedUp,
    /// Has a place.
    Joined,
    /// Has a pass.
    Admitted,
    /// Has seats held.
    Held,
    /// Authorised the payment.
    Paid,
    /// Has tickets.
    Confirmed,
    /// Gave confirmed tickets back.
    Cancelled,
}

const STAGES: usize = 7;

/// Longest time measured; anything longer counts as this.
const LONGEST_MS: u64 = 3_600_000;

/// Counters and clocks that many buyers share.
#[derive(Debug)]
pub struct Funnel {
    counts: [AtomicU64; STAGES],
    times: [Mutex<Histogram<u64>>; STAGES],
    retries: AtomicU64,
}

/// How many reached each stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FunnelCounts {
    /// See [`Stage`].
    pub signed_up: u64,
    /// See [`Stage`].
    pub joined: u64,
    /// See [`Stage`].
    pub admitted: u64,
    /// See [`Stage`].
    pub held: u64,
    /// See [`Stage`].
    pub paid: u64,
    /// See [`Stage`].
    pub confirmed: u64,
    /// See [`Stage`].
    pub cancelled: u64,
    /// Requests that were repeated because the server was busy or gone.
    pub retries: u64,
}

/// Quantiles of one step's duration, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// How many were measured.
    pub count: u64,
    /// Half were faster.
    pub p50_ms: u64,
    /// Nine in ten were faster.
    pub p90_ms: u64,
    /// 99 in a hundred were faster.
    pub p99_ms: u64,
    /// The slowest.
    pub max_ms: u64,
}

/// How long the steps took, each from the moment the buyer set out to do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Latencies {
    /// The request to join.
    pub join: Quantiles,
    /// From joining to the pass.
    pub wait_for_pass: Quantiles,
    /// The booking request, to the held booking.
    pub hold: Quantiles,
    /// From the authorised payment to the tickets.
    pub confirm: Quantiles,
}

impl Default for Funnel {
    fn default() -> Self {
        let histogram = || {
            let bounds = Histogram::new_with_bounds(1, LONGEST_MS, 3);
            Mutex::new(bounds.expect("the bounds are constants that fit"))
        };
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            times: std::array::from_fn(|_| histogram()),
            retries: AtomicU64::new(0),
        }
    }
}

impl Funnel {
    /// One more buyer came to `stage`, `took` after setting out for it.
    pub fn reached(&self, stage: Stage, took: Duration) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(LONGEST_MS).max(1);
        self.counts[stage as usize].fetch_add(1, Ordering::Relaxed);
        let mut histogram = self.times[stage as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record(millis);
    }

    /// One request had to be repeated.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// How many have reached each stage by now.
    #[must_use]
    pub fn counts(&self) -> FunnelCounts {
        let count = |stage: Stage| self.counts[stage as usize].load(Ordering::Relaxed);
        FunnelCounts {
            signed_up: count(Stage::SignedUp),
            joined: count(Stage::Joined),
            admitted: count(Stage::Admitted),
            held: count(Stage::Held),
            paid: count(Stage::Paid),
            confirmed: count(Stage::Confirmed),
            cancelled: count(Stage::Cancelled),
            retries: self.retries.load(Ordering::Relaxed),
        }
    }

    /// How long the steps have taken by now.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        Latencies {
            join: self.quantiles(Stage::Joined),
            wait_for_pass: self.quantiles(Stage::Admitted),
            hold: self.quantiles(Stage::Held),
            confirm: self.quantiles(Stage::Confirmed),
        }
    }

    fn quantiles(&self, stage: Stage) -> Quantiles {
        let histogram = self.times[stage as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Quantiles {
            count: histogram.len(),
            p50_ms: histogram.value_at_quantile(0.5),
            p90_ms: histogram.value_at_quantile(0.9),
            p99_ms: histogram.value_at_quantile(0.99),
            max_ms: histogram.max(),
        }
    }
}
