//! State machine of a booking: each state carries its data, and a command consumes the booking and
//! returns the next one.

use super::{BookingFacts, BookingState, RejectReason};
use crate::payment::VoidReason;

/// A booking in one of its states.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Booking {
    /// Accepted; no worker has decided it.
    Requested,
    /// Seats are held.
    Held {
        /// The booking.
        facts: BookingFacts,
        /// Reason for ending it, once that was begun: its seats stay held until its payment is
        /// void.
        ending: Option<VoidReason>,
    },
    /// Tickets exist.
    Confirmed {
        /// The booking.
        facts: BookingFacts,
        /// Whether the payment was captured, or none was due.
        is_paid: bool,
    },
    /// No seats were allocated.
    Rejected(RejectReason),
    /// The hold ended without a payment.
    Expired(BookingFacts),
    /// Cancelled by the buyer, by staff, or because its payment was impossible.
    Cancelled(BookingFacts),
}

/// A command to the state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BookingCommand {
    /// Seats were found.
    Hold(BookingFacts),
    /// No seats can be allocated.
    Reject(RejectReason),
    /// The money is authorised, or nothing is due.
    Confirm,
    /// The money is taken.
    MarkPaid,
    /// The hold expired. Its seats stay held: a payment may be under way.
    RunOut,
    /// The buyer or staff cancels it.
    GiveUp,
    /// The payment is void.
    EndUnpayable,
}

/// A command that the state does not allow, with the booking as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a booking that is {} can't take {command:?}", booking.state().as_str())]
pub struct InvalidTransition {
    /// The booking.
    pub booking: Box<Booking>,
    /// The command refused.
    pub command: Box<BookingCommand>,
}

impl Booking {
    /// The state's word.
    #[must_use]
    pub fn state(&self) -> BookingState {
        match self {
            Self::Requested => BookingState::Requested,
            Self::Held { .. } => BookingState::Held,
            Self::Confirmed { .. } => BookingState::Confirmed,
            Self::Rejected(_) => BookingState::Rejected,
            Self::Expired(_) => BookingState::Expired,
            Self::Cancelled(_) => BookingState::Cancelled,
        }
    }

    /// The facts of a booking that occupies seats.
    #[must_use]
    pub fn live(&self) -> Option<&BookingFacts> {
        match self {
            Self::Held { facts, .. } | Self::Confirmed { facts, .. } => Some(facts),
            Self::Requested | Self::Rejected(_) | Self::Expired(_) | Self::Cancelled(_) => None,
        }
    }

    /// Applies `command`. A hold that was cancelled is not confirmed any more; one that expired is,
    /// when the payment was authorised first.
    ///
    /// # Errors
    /// When this state does not allow the command.
    pub fn after(self, command: BookingCommand) -> Result<Self, InvalidTransition> {
        use BookingCommand as Command;
        use VoidReason::{Cancelled, HoldExpired};
        Ok(match (self, command) {
            (Self::Requested, Command::Hold(facts)) => Self::Held {
                facts,
                ending: None,
            },
            (Self::Requested, Command::Reject(reason)) => Self::Rejected(reason),
            (
                Self::Held {
                    facts,
                    ending: None | Some(HoldExpired),
                },
                Command::Confirm,
            ) => Self::Confirmed {
                facts,
                is_paid: false,
            },
            (
                Self::Held {
                    facts,
                    ending: None,
                },
                Command::RunOut,
            ) => Self::Held {
                facts,
                ending: Some(HoldExpired),
            },
            (
                Self::Held {
                    facts,
                    ending: None | Some(HoldExpired),
                },
                Command::GiveUp,
            ) => Self::Held {
                facts,
                ending: Some(Cancelled),
            },
            (
                Self::Held {
                    facts,
                    ending: Some(Cancelled),
                },
                Command::EndUnpayable,
            ) => Self::Cancelled(facts),
            (Self::Held { facts, .. }, Command::EndUnpayable) => Self::Expired(facts),
            (
                Self::Confirmed {
                    facts,
                    is_paid: false,
                },
                Command::MarkPaid,
            ) => Self::Confirmed {
                facts,
                is_paid: true,
            },
            (Self::Confirmed { facts, .. }, Command::GiveUp | Command::EndUnpayable) => {
                Self::Cancelled(facts)
            }
            (booking, command) => {
                return Err(InvalidTransition {
                    booking: Box::new(booking),
                    command: Box::new(command),
                });
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::{AccountId, BookingId, Currency, EventId, Money};

    fn facts() -> BookingFacts {
        BookingFacts {
            booking_id: BookingId(uuid::Uuid::nil()),
            event_id: EventId(1),
            account_id: AccountId(7),
            seats: Vec::new(),
            total: Money::new(500, Currency::EUR),
            hold_until: DateTime::UNIX_EPOCH,
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    /// Every state with everything it may carry, and what it is called in the table.
    fn states() -> [(&'static str, Booking); 9] {
        let held = |ending| Booking::Held {
            facts: facts(),
            ending,
        };
        let confirmed = |is_paid| Booking::Confirmed {
            facts: facts(),
            is_paid,
        };
        [
            ("requested", Booking::Requested),
            ("held", held(None)),
            ("run out", held(Some(VoidReason::HoldExpired))),
            ("given up", held(Some(VoidReason::Cancelled))),
            ("confirmed", confirmed(false)),
            ("paid", confirmed(true)),
            ("rejected", Booking::Rejected(RejectReason::SoldOut)),
            ("expired", Booking::Expired(facts())),
            ("cancelled", Booking::Cancelled(facts())),
        ]
    }

    fn name_of(booking: &Booking) -> &'static str {
        let found = states().into_iter().find(|(_, state)| state == booking);
        found.expect("every state is listed").0
    }

    /// A row for each state, a column for each command; empty where the command is refused.
    #[rustfmt::skip]
    const TABLE: [(&str, [&str; 7]); 9] = [
        //              hold    reject      confirm      paid    run out    give up      unpayable
        ("requested", ["held", "rejected", "",          "",     "",        "",          ""]),
        ("held",      ["",     "",         "confirmed", "",     "run out", "given up",  "expired"]),
        ("run out",   ["",     "",         "confirmed", "",     "",        "given up",  "expired"]),
        ("given up",  ["",     "",         "",          "",     "",        "",          "cancelled"]),
        ("confirmed", ["",     "",         "",          "paid", "",        "cancelled", "cancelled"]),
        ("paid",      ["",     "",         "",          "",     "",        "cancelled", "cancelled"]),
        ("rejected",  ["",     "",         "",          "",     "",        "",          ""]),
        ("expired",   ["",     "",         "",          "",     "",        "",          ""]),
        ("cancelled", ["",     "",         "",          "",     "",        "",          ""]),
    ];

    #[test]
    fn every_command_in_every_state_is_allowed_or_refused_as_drawn() {
        let commands = [
            BookingCommand::Hold(facts()),
            BookingCommand::Reject(RejectReason::SoldOut),
            BookingCommand::Confirm,
            BookingCommand::MarkPaid,
            BookingCommand::RunOut,
            BookingCommand::GiveUp,
            BookingCommand::EndUnpayable,
        ];
        for ((name, state), (row, expected)) in states().into_iter().zip(TABLE) {
            assert_eq!(name, row);
            for (command, expected) in commands.iter().zip(expected) {
                let next = match state.clone().after(command.clone()) {
                    Ok(next) => name_of(&next),
                    Err(refused) => {
                        assert_eq!(*refused.booking, state, "a refusal changes nothing");
                        ""
                    }
                };
                assert_eq!(next, expected, "{name} after {command:?}");
            }
        }
    }

    #[test]
    fn only_held_and_confirmed_bookings_keep_seats() {
        let live: Vec<_> = states()
            .into_iter()
            .filter(|(_, state)| state.live().is_some())
            .map(|(name, _)| name)
            .collect();
        assert_eq!(live, ["held", "run out", "given up", "confirmed", "paid"]);
    }
}
