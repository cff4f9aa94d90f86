//! Deterministic simulation of whole sales on a virtual clock: the production core of the release
//! loop and of the gate, with up to a million people who wait, leave, close their tabs, come back
//! and don't show up. Every step checks order (I7), places (I8), rate and cap (I9).
//!
//! The seed determines everything, so failures are reproducible.

mod checks;
mod door;
mod operator;
mod people;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use world::World;

pub use checks::Broken;

/// Size of the simulated sales.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Number of people who join each.
    pub waiters: u32,
    /// Initial rate, in claims a minute.
    pub rate_per_minute: u32,
}

impl Scale {
    /// Scales the rate so that a sale of any size takes about five minutes.
    #[must_use]
    pub fn of(waiters: u32) -> Self {
        Self {
            waiters,
            rate_per_minute: (waiters / 5).max(60),
        }
    }
}

/// Totals of one sale, or of many.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Steps of the release loop.
    pub steps: u64,
    /// People who joined.
    pub joined: u64,
    /// Places called.
    pub called: u64,
    /// Passes issued.
    pub claims: u64,
    /// Places that missed their claim window.
    pub missed: u64,
    /// People who left.
    pub left: u64,
    /// Forecast waits that have ended.
    pub predicted: u64,
    /// Those within the forecast p50.
    pub within_p50: u64,
    /// Those within the forecast p90.
    pub within_p90: u64,
}

impl Report {
    fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.joined += other.joined;
        self.called += other.called;
        self.claims += other.claims;
        self.missed += other.missed;
        self.left += other.left;
        self.predicted += other.predicted;
        self.within_p50 += other.within_p50;
        self.within_p90 += other.within_p90;
    }

    /// Share of forecast waits within the p90.
    #[must_use]
    pub fn p90_share(&self) -> f64 {
        share(self.within_p90, self.predicted)
    }

    /// Share of forecast waits within the p50.
    #[must_use]
    pub fn p50_share(&self) -> f64 {
        share(self.within_p50, self.predicted)
    }
}

fn share(part: u64, whole: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a share")]
    let share = part as f64 / whole.max(1) as f64;
    share
}

/// A violated invariant, and the seed that reproduces it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("seed {seed}, {seconds:.2} s after the start: {broken}")]
pub struct Failure {
    /// The sale's seed.
    pub seed: u64,
    /// Time of the violation, in seconds of the sale.
    pub seconds: f64,
    /// The violated invariant.
    #[source]
    pub broken: Broken,
}

/// Simulates one sale.
///
/// # Errors
/// The first violated invariant.
pub fn sale(seed: u64, scale: Scale) -> Result<Report, Failure> {
    World::new(seed, scale).run()
}

/// Simulates the sales of `seeds` on `threads` threads; `show` is called after each.
///
/// # Errors
/// The failure with the lowest seed.
pub fn sales(
    seeds: std::ops::Range<u64>,
    threads: usize,
    scale: Scale,
    show: impl Fn(u64, &Report) + Sync,
) -> Result<Report, Failure> {
    let next = AtomicU64::new(seeds.start);
    let total = Mutex::new((Report::default(), None::<Failure>));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = sale(seed, scale);
                    let mut total = total.lock().expect("no thread panics while it adds");
                    match outcome {
                        Ok(report) => {
                            show(seed, &report);
                            total.0.add(&report);
                        }
                        Err(failure) => {
                            let first = total.1.take().filter(|first| first.seed < seed);
                            total.1 = Some(first.unwrap_or(failure));
                        }
                    }
                }
            });
        }
    });
    let (report, failure) = total.into_inner().expect("no thread panicked");
    failure.map_or(Ok(report), Err)
}
