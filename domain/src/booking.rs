//! The booking and its state machine.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{AccountId, BookingId, EventId, Money, SeatId, SectionId};

/// Where a booking stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BookingState {
    /// Accepted; no worker has decided it.
    Requested,
    /// Seats are set aside until `hold_until`.
    Held,
    /// Tickets exist.
    Confirmed,
    /// No seats were given.
    Rejected,
    /// The hold ended without a payment.
    Expired,
    /// Given up by the buyer, by staff, or because its payment was impossible.
    Cancelled,
}

/// What may happen to a booking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BookingCommand {
    /// Seats were found.
    Hold,
    /// No seats can be given.
    Reject,
    /// The money is authorised, or nothing is due.
    Confirm,
    /// The hold ended, and no payment can come any more.
    Expire,
    /// The buyer or staff gives it up, and no payment can come any more or it is refunded.
    Cancel,
}

/// A command that the state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a booking that is {} can't take {command:?}", state.as_str())]
pub struct InvalidTransition {
    /// The state.
    pub state: BookingState,
    /// The command refused.
    pub command: BookingCommand,
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

    /// Whether nothing can change any more.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Rejected | Self::Expired | Self::Cancelled)
    }

    /// The state after `command`.
    ///
    /// # Errors
    /// When this state does not allow the command.
    pub fn after(self, command: BookingCommand) -> Result<Self, InvalidTransition> {
        use BookingCommand::{Cancel, Confirm, Expire, Hold, Reject};
        match (self, command) {
            (Self::Requested, Hold) => Ok(Self::Held),
            (Self::Requested, Reject) => Ok(Self::Rejected),
            (Self::Held, Confirm) => Ok(Self::Confirmed),
            (Self::Held, Expire) => Ok(Self::Expired),
            (Self::Held | Self::Confirmed, Cancel) => Ok(Self::Cancelled),
            (state, command) => Err(InvalidTransition { state, command }),
        }
    }
}

/// Why no seats were given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// Too few seats are free.
    SoldOut,
    /// Enough are free, but not next to each other as asked.
    NotAdjacent,
    /// The account would have more tickets than the event allows.
    LimitReached,
    /// The sale does not take bookings now.
    SaleClosed,
    /// A seat asked for by its id is not free.
    SeatTaken,
    /// The event, section or seat does not exist.
    UnknownEvent,
}

impl RejectReason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::SoldOut,
        Self::NotAdjacent,
        Self::LimitReached,
        Self::SaleClosed,
        Self::SeatTaken,
        Self::UnknownEvent,
    ];

    /// The word used on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SoldOut => "sold_out",
            Self::NotAdjacent => "not_adjacent",
            Self::LimitReached => "limit_reached",
            Self::SaleClosed => "sale_closed",
            Self::SeatTaken => "seat_taken",
            Self::UnknownEvent => "unknown_event",
        }
    }

    /// The reason with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == word)
    }
}

/// What a buyer asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wish {
    /// So many seats, the best that are free, in one section when it is named.
    Best {
        /// How many, from 1.
        tickets: u32,
        /// Where; anywhere when absent.
        section_id: Option<SectionId>,
    },
    /// These seats, all or none.
    Seats(Vec<SeatId>),
}

impl Wish {
    /// How many tickets are asked for.
    #[must_use]
    pub fn tickets(&self) -> u32 {
        match self {
            Self::Best { tickets, .. } => *tickets,
            Self::Seats(seats) => u32::try_from(seats.len()).unwrap_or(u32::MAX),
        }
    }
}

/// A seat as people know it.
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

/// A booking that has, or had, seats: what the other services need to act on it.
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
    /// What is due, or was paid.
    pub total: Money,
    /// When an unpaid hold ends.
    pub hold_until: DateTime<Utc>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// One admitted person's ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketFacts {
    /// What the QR code carries; unguessable.
    pub code: String,
    /// The seat.
    pub seat: BookedSeat,
}

#[cfg(test)]
mod tests {
    use super::*;
    use BookingCommand::{Cancel, Confirm, Expire, Hold, Reject};

    #[test]
    fn every_command_in_every_state_is_allowed_or_refused_as_drawn() {
        let commands = [Hold, Reject, Confirm, Expire, Cancel];
        let allowed: Vec<_> = BookingState::ALL
            .into_iter()
            .flat_map(|state| commands.map(|command| (state, command)))
            .filter_map(|(state, command)| Some((state, command, state.after(command).ok()?)))
            .collect();
        use BookingState::{Cancelled, Confirmed, Expired, Held, Rejected, Requested};
        assert_eq!(
            allowed,
            [
                (Requested, Hold, Held),
                (Requested, Reject, Rejected),
                (Held, Confirm, Confirmed),
                (Held, Expire, Expired),
                (Held, Cancel, Cancelled),
                (Confirmed, Cancel, Cancelled),
            ]
        );
    }

    #[test]
    fn words_are_read_back() {
        for state in BookingState::ALL {
            assert_eq!(BookingState::parse(state.as_str()), Some(state));
        }
        for reason in RejectReason::ALL {
            assert_eq!(RejectReason::parse(reason.as_str()), Some(reason));
        }
    }
}
