//! The booking and its state machine.

mod life;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{AccountId, BookingId, EventId, Money, SeatId, SectionId};

pub use life::{Booking, BookingCommand, InvalidTransition};

/// State of a booking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BookingState {
    /// Accepted; no worker has decided it.
    Requested,
    /// Seats are held until `hold_until`.
    Held,
    /// Tickets exist.
    Confirmed,
    /// No seats were allocated.
    Rejected,
    /// The hold ended without a payment.
    Expired,
    /// Cancelled by the buyer, by staff, or because its payment was impossible.
    Cancelled,
}

impl BookingState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Requested,
        Self::Held,
        Self::Confirmed,
        Self::Rejected,
        Self::Expired,
        Self::Cancelled,
    ];

    /// The word used on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Held => "held",
            Self::Confirmed => "confirmed",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Returns whether the state is final.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Rejected | Self::Expired | Self::Cancelled)
    }
}

/// Reason for a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// Too few seats are free.
    SoldOut,
    /// Enough are free, but not next to each other as asked.
    NotAdjacent,
    /// The seats asked for together are priced in several currencies.
    MixedCurrencies,
    /// The account would have more tickets than the event allows.
    LimitReached,
    /// The sale does not take bookings now.
    SaleClosed,
    /// A seat asked for by its id is not free.
    SeatTaken,
    /// The event, section or seat does not exist.
    UnknownEvent,
    /// The request waited longer than buyers do.
    TimedOut,
    /// The account held seats of the event without paying, and may hold no others for a while.
    HoldUsedUp,
    /// A reason of a later version, met while an upgrade runs; never written.
    #[serde(other)]
    Unknown,
}

/// Reason for not cancelling a confirmed booking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelRefusal {
    /// One of its tickets was checked in.
    CheckedIn,
    /// Its buyer has transferred one of its tickets.
    Transferred,
    /// Its event has begun.
    EventBegun,
}

impl RejectReason {
    /// Every reason of this version.
    pub const ALL: [Self; 9] = [
        Self::SoldOut,
        Self::NotAdjacent,
        Self::MixedCurrencies,
        Self::LimitReached,
        Self::SaleClosed,
        Self::SeatTaken,
        Self::UnknownEvent,
        Self::TimedOut,
        Self::HoldUsedUp,
    ];

    /// The word used on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SoldOut => "sold_out",
            Self::NotAdjacent => "not_adjacent",
            Self::MixedCurrencies => "mixed_currencies",
            Self::LimitReached => "limit_reached",
            Self::SaleClosed => "sale_closed",
            Self::SeatTaken => "seat_taken",
            Self::UnknownEvent => "unknown_event",
            Self::TimedOut => "timed_out",
            Self::HoldUsedUp => "hold_used_up",
            Self::Unknown => "unknown",
        }
    }

    /// The reason with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    /// The reason with this word; [`Unknown`](Self::Unknown) for one of a later version.
    #[must_use]
    pub fn read(word: &str) -> Self {
        Self::parse(word).unwrap_or(Self::Unknown)
    }
}

/// Reason for ending a hold before `hold_until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The payment provider accepts no payments for it, regardless of the payer.
    PaymentRefused,
}

impl EndReason {
    /// The word used on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PaymentRefused => "payment_refused",
        }
    }

    /// The reason with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::PaymentRefused]
            .into_iter()
            .find(|reason| reason.as_str() == word)
    }
}

/// The seats that a buyer requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// The best seats that are free.
    Best(Part),
    /// Several such at once, all or none.
    Mixed(Vec<Part>),
    /// These seats, all or none.
    Seats(Vec<SeatId>),
}

/// A number of adjacent seats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Number of tickets, from 1.
    pub tickets: u32,
    /// The section; any when absent.
    pub section_id: Option<SectionId>,
    /// The tier, by name; any when absent.
    #[serde(default)]
    pub tier: Option<String>,
}

impl Wish {
    /// The best seats, anywhere.
    #[must_use]
    pub fn best(tickets: u32) -> Self {
        Self::Best(Part {
            tickets,
            section_id: None,
            tier: None,
        })
    }

    /// The best seats of one section.
    #[must_use]
    pub fn best_in(section_id: SectionId, tickets: u32) -> Self {
        Self::Best(Part {
            tickets,
            section_id: Some(section_id),
            tier: None,
        })
    }

    /// Number of requested tickets.
    #[must_use]
    pub fn tickets(&self) -> u32 {
        match self {
            Self::Best(part) => part.tickets,
            Self::Mixed(parts) => parts
                .iter()
                .fold(0, |sum, part| part.tickets.saturating_add(sum)),
            Self::Seats(seats) => u32::try_from(seats.len()).unwrap_or(u32::MAX),
        }
    }
}

/// A seat by its section, row and number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookedSeat {
    /// Its id.
    pub id: SeatId,
    /// The name of its section.
    pub section: String,
    /// Its row, in a numbered section.
    pub row: Option<String>,
    /// Its number, in a numbered section.
    pub number: Option<i32>,
}

/// The facts of a booking that has, or had, seats, as other services need them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookingFacts {
    /// Its id.
    pub booking_id: BookingId,
    /// The event.
    pub event_id: EventId,
    /// The buyer.
    pub account_id: AccountId,
    /// The seats, in order.
    pub seats: Vec<BookedSeat>,
    /// The amount due, or paid.
    pub total: Money,
    /// When an unpaid hold ends.
    pub hold_until: DateTime<Utc>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// One admitted person's ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketFacts {
    /// The content of the QR code; unguessable.
    pub code: String,
    /// The seat.
    pub seat: BookedSeat,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_of_before_parts_is_read() {
        let stored = r#"{"best":{"tickets":2,"section_id":null}}"#;
        assert_eq!(serde_json::from_str::<Wish>(stored).unwrap(), Wish::best(2));
    }

    #[test]
    fn words_are_read_back() {
        for state in BookingState::ALL {
            assert_eq!(BookingState::parse(state.as_str()), Some(state));
        }
        for reason in RejectReason::ALL {
            assert_eq!(RejectReason::parse(reason.as_str()), Some(reason));
        }
        let refused = EndReason::PaymentRefused;
        assert_eq!(EndReason::parse(refused.as_str()), Some(refused));
    }

    #[test]
    fn a_reason_of_a_later_version_is_unknown() {
        assert_eq!(RejectReason::read("sold_out"), RejectReason::SoldOut);
        assert_eq!(RejectReason::read("full_moon"), RejectReason::Unknown);
        for (word, reason) in [
            ("sold_out", RejectReason::SoldOut),
            ("full_moon", RejectReason::Unknown),
        ] {
            let read = serde_json::from_str::<RejectReason>(&format!("{word:?}"));
            assert_eq!(read.unwrap(), reason);
        }
    }
}
