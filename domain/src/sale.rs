//! The sale of one event: the operator's settings, and its state, derived from them, the time and
//! the stock of seats.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::EventId;

/// Settings of a sale. Box-office owns them; admission follows them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaleSettings {
    /// The event sold.
    pub event_id: EventId,
    /// Grows with every change; a reader ignores a version it has passed.
    pub version: i64,
    /// When calling starts.
    pub opens_at: DateTime<Utc>,
    /// When calling and booking end; `None`: when the event starts.
    pub closes_at: Option<DateTime<Utc>>,
    /// When the event starts, from the event; `None` when it is not known.
    #[serde(default)]
    pub event_starts_at: Option<DateTime<Utc>>,
    /// Lead time before the opening during which people may join.
    pub lobby_seconds: u32,
    /// Calls per minute.
    pub rate_per_minute: u32,
    /// Most passes that run at once.
    pub shopper_cap: u32,
    /// Claim window, after which a called place is a no-show.
    pub claim_window_seconds: u32,
    /// Lifetime of a pass.
    pub pass_seconds: u32,
    /// Lifetime of a hold without payment.
    pub hold_seconds: u32,
    /// Whether calling is paused; running passes stay valid.
    pub paused: bool,
    /// Whether an operator ended it.
    pub closed: bool,
    /// Whether booking needs a pass. Off, bookings go straight through.
    pub queue: bool,
    /// Whether joining requires proof of work, which makes mass joins expensive.
    #[serde(default)]
    pub challenge: bool,
    /// Whether visitors without an account may join. The queue then guards another site: the event
    /// sells nothing here, so bookings are not taken.
    #[serde(default)]
    pub anonymous: bool,
    /// Source of the public entropy of the lobby's lottery, announced before the lobby opens; empty
    /// for none.
    #[serde(default)]
    pub entropy_source: String,
    /// The value of that source. With a source announced, the sale opens only once it is entered.
    #[serde(default)]
    pub entropy: String,
    /// The operator's message to everybody in the queue.
    pub message: String,
    /// Most live tickets of one account, from the event.
    pub max_tickets_per_account: u32,
}

/// State of a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SaleState {
    /// Too early to join.
    Scheduled,
    /// People may join; nobody is called.
    Lobby,
    /// People are called.
    Open,
    /// People may join; nobody is called until it is resumed.
    Paused,
    /// Ended.
    Closed,
    /// Nothing is left that could still be sold.
    SoldOut,
}

impl SaleState {
    /// Returns whether the queue can be joined.
    #[must_use]
    pub fn is_joinable(self) -> bool {
        matches!(self, Self::Lobby | Self::Open | Self::Paused)
    }

    /// Returns whether a booking may be accepted. A paused sale calls nobody, but passes stay
    /// valid, and a sold-out one may have seats again.
    #[must_use]
    pub fn is_bookable(self) -> bool {
        matches!(self, Self::Open | Self::Paused | Self::SoldOut)
    }
}

impl SaleSettings {
    /// Opening of the lobby, from which people may join.
    #[must_use]
    pub fn lobby_opens_at(&self) -> DateTime<Utc> {
        self.opens_at - TimeDelta::seconds(i64::from(self.lobby_seconds))
    }

    /// Returns whether the value of an announced source of entropy is still missing. Until it is
    /// entered nobody has a place, and the sale stays in its lobby.
    #[must_use]
    pub fn awaits_entropy(&self) -> bool {
        !self.entropy_source.is_empty() && self.entropy.is_empty()
    }

    /// End of calling and booking, unless an operator ends them before.
    #[must_use]
    pub fn ends_at(&self) -> Option<DateTime<Utc>> {
        self.closes_at.or(self.event_starts_at)
    }

    /// Returns whether a booking may be accepted at `now`.
    #[must_use]
    pub fn takes_bookings_at(&self, now: DateTime<Utc>) -> bool {
        !self.anonymous && self.state_at(now, None).is_bookable()
    }

    /// The state at `now`, when `unsold` seats are neither held nor sold and `held` are held;
    /// `None` when the stock is not known yet.
    #[must_use]
    pub fn state_at(&self, now: DateTime<Utc>, stock: Option<Stock>) -> SaleState {
        if self.closed || self.ends_at().is_some_and(|end| now >= end) {
            return SaleState::Closed;
        }
        if now < self.lobby_opens_at() {
            return SaleState::Scheduled;
        }
        if now < self.opens_at || self.awaits_entropy() {
            return SaleState::Lobby;
        }
        if stock.is_some_and(Stock::is_sold_out) {
            return SaleState::SoldOut;
        }
        if self.paused {
            SaleState::Paused
        } else {
            SaleState::Open
        }
    }
}

/// Number of an event's seats by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Stock {
    /// Neither held nor sold.
    pub available: i64,
    /// Held for bookings that are not decided.
    pub held: i64,
    /// Sold.
    pub sold: i64,
}

impl Stock {
    /// Returns whether every seat is sold; held ones may be released.
    #[must_use]
    pub fn is_sold_out(self) -> bool {
        self.available == 0 && self.held == 0 && self.sold > 0
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing;

    pub(crate) fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap()
    }

    pub(crate) fn settings() -> SaleSettings {
        SaleSettings {
            closes_at: Some(at(1000)),
            event_starts_at: Some(at(500)),
            lobby_seconds: 60,
            shopper_cap: 10,
            ..testing::sale(EventId(1), at(0))
        }
    }

    #[test]
    fn a_sale_goes_from_scheduled_to_closed_by_the_clock() {
        let sale = settings();
        let states: Vec<_> = [-61, -60, -1, 0, 999, 1000]
            .map(|s| sale.state_at(at(s), None))
            .into();
        use SaleState::{Closed, Lobby, Open, Scheduled};
        assert_eq!(states, [Scheduled, Lobby, Lobby, Open, Open, Closed]);
    }

    #[test]
    fn a_sale_ends_with_the_start_of_its_event_unless_it_says_otherwise() {
        use SaleState::{Closed, Open};
        let until_the_start = SaleSettings {
            closes_at: None,
            ..settings()
        };
        let until_closed = SaleSettings {
            event_starts_at: None,
            ..until_the_start.clone()
        };
        let states =
            |sale: &SaleSettings| [499, 500, 999, 1000].map(|s| sale.state_at(at(s), None));
        assert_eq!(states(&settings()), [Open, Open, Open, Closed]);
        assert_eq!(states(&until_the_start), [Open, Closed, Closed, Closed]);
        assert_eq!(states(&until_closed), [Open; 4]);
        assert!(!until_the_start.takes_bookings_at(at(500)));
    }

    #[test]
    fn a_sale_stays_in_its_lobby_until_the_announced_entropy_is_entered() {
        let waits = SaleSettings {
            entropy_source: "the lottery numbers of tonight".to_owned(),
            ..settings()
        };
        let published = SaleSettings {
            entropy: "4 8 15 16 23 42".to_owned(),
            ..waits.clone()
        };
        let states = |sale: &SaleSettings| [-1, 0, 1000].map(|s| sale.state_at(at(s), None));
        use SaleState::{Closed, Lobby, Open};
        assert_eq!(states(&waits), [Lobby, Lobby, Closed]);
        assert_eq!(states(&published), [Lobby, Open, Closed]);
        assert!(!waits.takes_bookings_at(at(1)) && published.takes_bookings_at(at(1)));
    }

    #[test]
    fn a_queue_that_guards_another_site_sells_nothing() {
        let guards = SaleSettings {
            anonymous: true,
            ..settings()
        };
        assert_eq!(guards.state_at(at(1), None), SaleState::Open);
        assert!(settings().takes_bookings_at(at(1)) && !guards.takes_bookings_at(at(1)));
    }

    #[test]
    fn held_seats_keep_a_sale_from_being_sold_out() {
        let sale = settings();
        let stock = |held| {
            Some(Stock {
                available: 0,
                held,
                sold: 5,
            })
        };
        assert_eq!(sale.state_at(at(1), stock(1)), SaleState::Open);
        assert_eq!(sale.state_at(at(1), stock(0)), SaleState::SoldOut);
    }

    #[test]
    fn a_closed_sale_stays_closed_whatever_the_clock_says() {
        let sale = SaleSettings {
            closed: true,
            paused: true,
            ..settings()
        };
        assert_eq!(sale.state_at(at(-100), None), SaleState::Closed);
    }
}
