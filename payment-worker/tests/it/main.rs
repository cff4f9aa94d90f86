//! The payment worker on real PostgreSQL and RabbitMQ, against the Stripe stand-in over HTTP. The
//! stand-in's ledger is an independent witness of what was charged.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod backlog;
mod cancelling;
mod cards;
mod contract;
mod currencies;
mod faults;
mod faulty;
mod paying;
mod pipeline;
mod races;
mod reconciling;
mod refunds;
mod refusals;
mod schedules;
mod shop;
mod staff;
mod sweeps;
mod transfers;
mod upgrades;
mod webhooks;

/// Parses a number from the environment; `default` when it is not set.
fn setting<T: std::str::FromStr>(key: &str, default: T) -> T {
    let value = std::env::var(key).ok();
    value.map_or(default, |value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{key}={value} is no number"))
    })
}
