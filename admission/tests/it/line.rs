//! The sale of the tests.

use chrono::{DateTime, TimeDelta, Utc};
use domain::EventId;
use domain::sale::SaleSettings;

pub(crate) const EVENT: EventId = EventId(1);

/// A sale that opened a minute before [`start`].
pub(crate) fn sale() -> SaleSettings {
    SaleSettings {
        event_id: EVENT,
        version: 1,
        opens_at: start() - TimeDelta::seconds(60),
        closes_at: None,
        lobby_seconds: 0,
        rate_per_minute: 600,
        shopper_cap: 100_000,
        claim_window_seconds: 60,
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
        max_tickets_per_account: 6,
    }
}

pub(crate) fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}
