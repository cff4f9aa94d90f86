//! Whole sales on a virtual clock: the release loop's own core and the gate's own rules, and up to
//! a million people who wait, leave, close their tabs, come back and don't show up. At every step
//! it is checked that the order (I7), the places (I8), and rate and cap (I9) hold.
//!
//! A seed decides everything, so a failure can be repeated.

mod checks;
mod door;
mod operator;
mod people;
mod world;

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use world::World;

pub use checks::Broken;

/// How large the simulated sales are.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// How many people join in each.
    pub waiters: u32,
    /// How many claims a minute the operator sets at first.
    pub rate_per_minute: u32,
}

impl Scale {
    /// With a rate at which a sale of any size takes about five minutes.
    #[must_use]
    pub fn of(waiters: u32) -> Self {
        Self {
            waiters,
            rate_per_minute: (waiters / 5).max(60),
        }
    }
}

/// What happened in one sale, or in many.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    /// Steps of the release loop.
    pub steps: u64,
    /// People who joined.
    pub joined: u64,
    /// Places called.
    pub called: u64,
    /// Passes given.
    pub claims: u64,
    /// Called places that were given up.
    pub missed: u64,
    /// People who left.
    pub left: u64,
    /// Waits that were predicted and came to an end.
    pub predicted: u64,
    /// Of those, not longer than the p50 said.
    pub within_p50: u64,
    /// Of those, not longer than the p90 said.
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

    /// Which part of the predicted waits were not longer than the p90 said.
    #[must_use]
    pub fn p90_share(&self) -> f64 {
        share(self.within_p90, self.predicted)
    }

    /// Which part of the predicted waits were not longer than the p50 said.
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

/// A promise that a sale broke, and the seed that shows it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("seed {seed}, {seconds:.2} s after the start: {broken}")]
pub struct Failure {
    /// The sale's seed.
    pub seed: u64,
    /// When it was, in the sale's time.
    pub seconds: f64,
    /// What broke.
    #[source]
    pub broken: Broken,
}

/// Simulates one sale.
///
/// # Errors
/// The first promise that broke.
pub fn sale(seed: u64, scale: Scale) -> Result<Report, Failure> {
    World::new(seed, scale).run()
}

/// Simulates the sales of `seeds`, on as many threads; `told` hears of each.
///
/// # Errors
/// The failure with the lowest seed.
pub fn sales(
    seeds: std::ops::Range<u64>,
    threads: usize,
    scale: Scale,
    told: impl Fn(u64, &Report) + Sync,
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
                            told(seed, &report);
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
