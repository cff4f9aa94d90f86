//! Scheduled events of a sale, by operator and machines, drawn from the seed beforehand.

use chrono::{DateTime, TimeDelta, Utc};
use domain::EventId;
use domain::sale::SaleSettings;
use rand::Rng;
use rand::rngs::StdRng;

use super::Scale;

/// An event at a tick.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Act {
    /// Sets the rate to a multiple of the initial one.
    Rate(f64),
    Pause,
    Resume,
    /// Sets the cap to this many seconds' worth of the initial rate.
    Cap(f64),
    /// Fails over to another leader.
    Restart,
    /// Sets the no-show rate.
    NoShows(f64),
    /// This share of the waiting close their tabs at once.
    Vanish(f64),
}

pub(super) fn sale(scale: Scale, opens_at: DateTime<Utc>, rng: &mut StdRng) -> SaleSettings {
    let per_second = scale.rate_per_minute.div_ceil(60);
    SaleSettings {
        event_id: EventId(1),
        version: 1,
        opens_at,
        closes_at: None,
        event_starts_at: None,
        lobby_seconds: 3_600,
        rate_per_minute: scale.rate_per_minute,
        shopper_cap: per_second * rng.random_range(25..90),
        claim_window_seconds: 30,
        pass_seconds: 600,
        hold_seconds: 600,
        paused: false,
        closed: false,
        queue: true,
        challenge: false,
        anonymous: false,
        entropy_source: String::new(),
        entropy: String::new(),
        message: String::new(),
        max_tickets_per_account: 4,
    }
}

/// Draws the events, by ticks after the opening, in order.
pub(super) fn plan(rng: &mut StdRng) -> Vec<(u32, Act)> {
    let mut plan = Vec::new();
    for _ in 0..rng.random_range(0..4) {
        plan.push((
            rng.random_range(100..1_600),
            Act::Rate(rng.random_range(0.8..1.3)),
        ));
    }
    if rng.random_bool(0.5) {
        let from = rng.random_range(100..1_000);
        plan.push((from, Act::Pause));
        plan.push((from + rng.random_range(8..80), Act::Resume));
    }
    if rng.random_bool(0.3) {
        plan.push((
            rng.random_range(100..1_000),
            Act::Cap(rng.random_range(20.0..60.0)),
        ));
    }
    for _ in 0..rng.random_range(0..4) {
        plan.push((rng.random_range(20..1_600), Act::Restart));
    }
    plan.push((0, Act::NoShows(rng.random_range(0.0..0.3))));
    plan.push((
        rng.random_range(200..1_200),
        Act::NoShows(rng.random_range(0.0..0.4)),
    ));
    if rng.random_bool(0.3) {
        plan.push((
            rng.random_range(100..800),
            Act::Vanish(rng.random_range(0.1..0.4)),
        ));
    }
    plan.sort_by_key(|(tick, _)| *tick);
    plan
}

/// Applies an event to the sale's settings, if it is an operator's.
pub(super) fn apply(sale: &mut SaleSettings, act: Act, scale: Scale) {
    let times = |factor: f64, of: u32| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a small factor"
        )]
        let product = (f64::from(of) * factor) as u32;
        product.max(1)
    };
    match act {
        Act::Rate(factor) => sale.rate_per_minute = times(factor, scale.rate_per_minute),
        Act::Cap(seconds) => sale.shopper_cap = times(seconds / 60.0, scale.rate_per_minute),
        Act::Pause => sale.paused = true,
        Act::Resume => sale.paused = false,
        Act::Restart | Act::NoShows(_) | Act::Vanish(_) => return,
    }
    sale.version += 1;
}

/// Converts ticks to time.
pub(super) fn ticks(count: u32) -> TimeDelta {
    TimeDelta::milliseconds(i64::from(count) * 250)
}
