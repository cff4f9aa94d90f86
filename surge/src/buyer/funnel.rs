//! Conversion funnel: counts and latency histograms of each stage of a purchase.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use reqwest::StatusCode;
use serde::Serialize;
use tokio::time::Instant;

/// A stage of a purchase, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Has an account.
    SignedUp,
    /// Has signed in to an existing account.
    SignedIn,
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

const STAGES: usize = 8;

/// Upper bound of the histograms; longer times saturate.
const MAX_MS: u64 = 3_600_000;

/// Counters and histograms shared by many buyers.
#[derive(Debug)]
pub struct Funnel {
    counts: [AtomicU64; STAGES],
    times: [Mutex<Histogram<u64>>; STAGES],
    waiting: AtomicU64,
    retries: AtomicU64,
    limited: AtomicU64,
    requests: Mutex<Requests>,
}

/// One buyer in the queue, counted as waiting until it is dropped.
#[derive(Debug)]
pub(super) struct InQueue<'a>(&'a AtomicU64);

impl Drop for InQueue<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Requests to the API, and how many of them failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    /// All requests, retries included.
    pub sent: u64,
    /// Responses with status 503.
    pub unavailable: u64,
    /// Responses with another status 5xx.
    pub broken: u64,
    /// Requests without a usable response.
    pub unanswered: u64,
    /// When the last of the failed ones ended.
    pub last_failure: Option<Instant>,
}

impl Requests {
    /// Requests that failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.unavailable + self.broken + self.unanswered
    }
}

/// Number of buyers that reached each stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct FunnelCounts {
    /// See [`Stage`]. Not serialised: the crowds of a report have their accounts before the sale.
    #[serde(skip)]
    pub signed_up: u64,
    /// See [`Stage`].
    pub signed_in: u64,
    /// See [`Stage`].
    pub joined: u64,
    /// Buyers in the queue now, who were neither called nor left. Not serialised: a report is of
    /// the end, when nobody is.
    #[serde(skip)]
    pub waiting: u64,
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
    /// Requests that were retried because the server was busy or unreachable.
    pub retries: u64,
    /// Responses with status 429.
    pub limited: u64,
}

/// Quantiles of one stage's duration, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    /// Sample size.
    pub count: u64,
    /// Median.
    pub p50_ms: u64,
    /// 90th percentile.
    pub p90_ms: u64,
    /// 99th percentile.
    pub p99_ms: u64,
    /// Maximum.
    pub max_ms: u64,
}

/// Latencies of the stages, each from the buyer's first attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Latencies {
    /// The sign-up, or the sign-in when the account exists. Not serialised, as
    /// [`FunnelCounts::signed_up`].
    #[serde(skip)]
    pub sign_up: Quantiles,
    /// The sign-in to an existing account.
    pub sign_in: Quantiles,
    /// The request to join.
    pub join: Quantiles,
    /// From joining to the pass.
    pub wait_for_pass: Quantiles,
    /// From the booking request to the held booking.
    pub hold: Quantiles,
    /// From the authorised payment to the tickets.
    pub confirm: Quantiles,
}

impl Default for Funnel {
    fn default() -> Self {
        let histogram = || {
            let bounds = Histogram::new_with_bounds(1, MAX_MS, 3);
            Mutex::new(bounds.expect("the bounds are constants that fit"))
        };
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            times: std::array::from_fn(|_| histogram()),
            waiting: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            limited: AtomicU64::new(0),
            requests: Mutex::default(),
        }
    }
}

impl Funnel {
    /// Records that a buyer reached `stage`, `took` after the first attempt.
    pub fn reached(&self, stage: Stage, took: Duration) {
        let millis = u64::try_from(took.as_millis()).unwrap_or(MAX_MS).max(1);
        self.counts[stage as usize].fetch_add(1, Ordering::Relaxed);
        let mut histogram = self.times[stage as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        histogram.saturating_record(millis);
    }

    /// Counts a buyer as waiting, until the guard is dropped.
    pub(super) fn wait(&self) -> InQueue<'_> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        InQueue(&self.waiting)
    }

    /// Counts a retry.
    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a response with status 429.
    pub fn limited(&self) {
        self.limited.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that ended now; without a status it had no usable response.
    pub(super) fn ended(&self, status: Option<StatusCode>) {
        let mut requests = self.lock_requests();
        let failed = requests.failed();
        requests.sent += 1;
        match status {
            None => requests.unanswered += 1,
            Some(StatusCode::SERVICE_UNAVAILABLE) => requests.unavailable += 1,
            Some(status) if status.is_server_error() => requests.broken += 1,
            Some(_) => {}
        }
        if requests.failed() > failed {
            requests.last_failure = Some(Instant::now());
        }
    }

    /// Returns the requests so far.
    #[must_use]
    pub fn requests(&self) -> Requests {
        *self.lock_requests()
    }

    fn lock_requests(&self) -> MutexGuard<'_, Requests> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the counts so far.
    #[must_use]
    pub fn counts(&self) -> FunnelCounts {
        let count = |stage: Stage| self.counts[stage as usize].load(Ordering::Relaxed);
        FunnelCounts {
            signed_up: count(Stage::SignedUp),
            signed_in: count(Stage::SignedIn),
            joined: count(Stage::Joined),
            waiting: self.waiting.load(Ordering::Relaxed),
            admitted: count(Stage::Admitted),
            held: count(Stage::Held),
            paid: count(Stage::Paid),
            confirmed: count(Stage::Confirmed),
            cancelled: count(Stage::Cancelled),
            retries: self.retries.load(Ordering::Relaxed),
            limited: self.limited.load(Ordering::Relaxed),
        }
    }

    /// Returns the latencies so far.
    #[must_use]
    pub fn latencies(&self) -> Latencies {
        Latencies {
            sign_up: self.quantiles(Stage::SignedUp),
            sign_in: self.quantiles(Stage::SignedIn),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_kind_and_the_last_one_is_dated() {
        let funnel = Funnel::default();
        for status in [StatusCode::OK, StatusCode::CONFLICT, StatusCode::GONE] {
            funnel.ended(Some(status));
        }
        assert_eq!(funnel.requests().last_failure, None);
        let before = Instant::now();
        funnel.ended(Some(StatusCode::SERVICE_UNAVAILABLE));
        funnel.ended(Some(StatusCode::BAD_GATEWAY));
        funnel.ended(None);
        let failed = funnel.requests();
        assert!(failed.last_failure >= Some(before));
        funnel.ended(Some(StatusCode::OK));
        assert_eq!(
            funnel.requests(),
            Requests {
                sent: 7,
                unavailable: 1,
                broken: 1,
                unanswered: 1,
                last_failure: failed.last_failure,
            }
        );
    }
}
