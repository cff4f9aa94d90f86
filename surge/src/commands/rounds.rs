//! Alternating rounds of the subject and its baseline, so that other load on the machine affects
//! both.

use std::net::SocketAddr;
use std::time::Duration;

use super::load::{self, Load, Outcome, Requests};
use super::{machine, say};

/// One side of a comparison.
#[derive(Debug, Clone, Copy)]
pub(super) struct Side {
    pub(super) name: &'static str,
    pub(super) address: SocketAddr,
    /// `None` when it runs elsewhere.
    pub(super) pid: Option<u32>,
}

/// Results of one side's rounds.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    per_second: Vec<f64>,
    cpu_us: Vec<f64>,
}

impl Side {
    /// Runs a round and adds it to `rounds`.
    pub(super) async fn round(
        &self,
        load: &Load,
        requests: &Requests,
        rounds: &mut Rounds,
    ) -> anyhow::Result<Outcome> {
        let load = Load {
            target: self.address,
            ..load.clone()
        };
        let before = self.cpu_time()?;
        let outcome = load::run(&load, requests).await?.check()?;
        let used = self.cpu_time()?.saturating_sub(before);
        rounds.per_second.push(outcome.per_second());
        #[expect(clippy::cast_precision_loss, reason = "a mean")]
        let answered = (outcome.succeeded + outcome.refused) as f64;
        rounds.cpu_us.push(used.as_secs_f64() * 1e6 / answered);
        say(format_args!(
            "  {:<12} {:>8.0} requests/s   p50 {:>6} us   p99 {:>6} us   {:>5.1} us of its CPU each",
            self.name,
            outcome.per_second(),
            outcome.latency.value_at_quantile(0.5),
            outcome.latency.value_at_quantile(0.99),
            rounds.cpu_us.last().copied().unwrap_or_default(),
        ));
        Ok(outcome)
    }

    fn cpu_time(&self) -> anyhow::Result<Duration> {
        self.pid.map_or(Ok(Duration::ZERO), machine::cpu_time)
    }
}

impl Rounds {
    /// Median of requests a second.
    pub(super) fn per_second(&self) -> f64 {
        median(&self.per_second)
    }

    /// Median of processor time per request, in microseconds.
    pub(super) fn cpu_us(&self) -> f64 {
        median(&self.cpu_us)
    }
}

/// Median; of an even number of values, the mean of the middle two.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.as_slice() {
        [] => f64::NAN,
        all if all.len() % 2 == 1 => all[middle],
        all => f64::midpoint(all[middle - 1], all[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_the_mean_of_two() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
    }
}
