//! Sample values for tests.

use chrono::{DateTime, Utc};

use crate::EventId;
use crate::sale::SaleSettings;

/// Settings of a sale with a queue, open from `opens_at` until it is closed by hand, without a
/// lobby: a test states the others with `..sale(event_id, opens_at)`.
#[must_use]
pub fn sale(event_id: EventId, opens_at: DateTime<Utc>) -> SaleSettings {
    SaleSettings {
        event_id,
        version: 1,
        opens_at,
        closes_at: None,
        event_starts_at: None,
        lobby_seconds: 0,
        rate_per_minute: 600,
        shopper_cap: 100,
        claim_window_seconds: 60,
        pass_seconds: 60,
        hold_seconds: 60,
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
