//! The shared snapshot.

use chrono::{DateTime, Utc};
use domain::Place;
use domain::ahead::Ahead;
use domain::queue::{Braking, Lottery, Pace, Snapshot};
use domain::sale::{SaleSettings, SaleState, Stock};

use super::tick::Moved;

const DAY_SECONDS: i64 = 86_400;

/// The snapshot of a sale that was moved just now; its `seq` is left to the caller.
pub(super) fn take(
    now: DateTime<Utc>,
    sale: &SaleSettings,
    state: SaleState,
    stock: Option<Stock>,
    moved: &Moved,
) -> Snapshot {
    Snapshot {
        event_id: sale.event_id,
        seq: 0,
        at: now,
        state,
        message: sale.message.clone(),
        challenge: sale.challenge,
        anonymous: sale.anonymous,
        lottery: Lottery::default(),
        claim_window_seconds: sale.claim_window_seconds,
        rate_per_minute: sale.rate_per_minute,
        joined: Place(moved.joined),
        cursor: Place(moved.cursor),
        missed_below: Place(moved.missed_below),
        left: moved.left,
        waiting: moved.waiting(),
        shopping: moved.shopping,
        shopper_cap: sale.shopper_cap,
        claimed_last_minute: moved.claimed_last_minute,
        available: stock.map(|stock| stock.available),
        likely_until: None,
        ahead: Ahead::default(),
        pace: pace(state, sale, moved),
        brake: Braking::default(),
        tokens_expire_at: tokens_expire_at(now, sale),
        poll_after_ms: poll_after_ms(state, moved.waiting()),
    }
}

/// Whether the two say different things; when they were taken is not one.
pub(super) fn differ(a: &Snapshot, b: &Snapshot) -> bool {
    *a != Snapshot {
        seq: a.seq,
        at: a.at,
        ..b.clone()
    }
}

/// A day after the sale ends; of one without an end, the end of tomorrow, so that it changes once
/// a day only.
fn tokens_expire_at(now: DateTime<Utc>, sale: &SaleSettings) -> i64 {
    match sale.closes_at {
        Some(end) => end.timestamp() + DAY_SECONDS,
        None => (now.timestamp().div_euclid(DAY_SECONDS) + 2) * DAY_SECONDS,
    }
}

fn poll_after_ms(state: SaleState, waiting: i64) -> u32 {
    match state {
        SaleState::Open if waiting == 0 => 2_000,
        SaleState::Lobby | SaleState::Open | SaleState::Paused => 5_000,
        SaleState::Scheduled | SaleState::Closed | SaleState::SoldOut => 30_000,
    }
}

/// The set rate, or that of the last minute's claims while every slot for shoppers is taken; the
/// slower one allows for a third less.
fn pace(state: SaleState, sale: &SaleSettings, moved: &Moved) -> Option<Pace> {
    if state != SaleState::Open || sale.rate_per_minute == 0 {
        return None;
    }
    let is_full = moved.shopping >= i64::from(sale.shopper_cap);
    let claims = u32::try_from(moved.claimed_last_minute.max(1)).unwrap_or(u32::MAX);
    let per_minute = if is_full {
        claims.min(sale.rate_per_minute)
    } else {
        sale.rate_per_minute
    };
    let p50_per_hour = per_minute.saturating_mul(60);
    Some(Pace {
        p50_per_hour,
        p90_per_hour: p50_per_hour / 3 * 2,
    })
}
