//! What buyers are told.

use domain::booking::{BookingFacts, TicketFacts};
use domain::message::{
    BookingCancelled, BookingExpired, BookingPaid, HoldPlaced, RefundSucceeded, TicketTransferred,
};
use domain::{AccountId, BookingId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Email,
    Sms,
}

impl Channel {
    /// The word in the database and in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Sms => "sms",
        }
    }

    /// The channel with this word.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Email, Self::Sms]
            .into_iter()
            .find(|channel| channel.as_str() == word)
    }
}

/// The kind of a message about an event, for everybody who holds tickets of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    Reminder,
    EventChanged,
    EventCancelled,
}

impl News {
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Reminder => "reminder",
            Self::EventChanged => "event_changed",
            Self::EventCancelled => "event_cancelled",
        }
    }

    /// Whether it is also for buyers who have transferred all their tickets: their money comes back.
    pub(crate) fn concerns_money(self) -> bool {
        self == Self::EventCancelled
    }
}

/// What an account holds of a paid booking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holding {
    pub(crate) booking: BookingFacts,
    /// None for a buyer who has transferred all.
    pub(crate) tickets: Vec<TicketFacts>,
    /// The account, when it is not the buyer.
    #[serde(default)]
    pub(crate) received_by: Option<AccountId>,
}

/// A message with what it says, beside the event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Notice {
    /// Seats are held; pay in time.
    Held(HoldPlaced),
    /// Here are the tickets.
    Confirmed(BookingPaid),
    /// The hold ended unpaid.
    Expired(BookingExpired),
    /// The booking was given up.
    Cancelled(BookingCancelled),
    /// Money is on its way back.
    Refunded(RefundSucceeded),
    /// The event is near.
    Reminder(Holding),
    /// The event takes place otherwise than it was told.
    EventChanged(Holding),
    /// The event does not take place.
    EventCancelled(Holding),
    /// A ticket was given to somebody else.
    Transferred(TicketTransferred),
    /// Somebody gave a ticket to this account.
    Received(TicketTransferred),
    /// The booking of a received ticket is cancelled.
    Withdrawn(TicketTransferred),
}

/// A row that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the facts of a notification of kind {kind} can't be read")]
pub(crate) struct UnreadableNotice {
    kind: String,
    source: serde_json::Error,
}

impl Notice {
    /// What is stored as `kind` and `facts`.
    ///
    /// # Errors
    /// [`UnreadableNotice`] when they don't fit.
    pub(crate) fn read(kind: &str, facts: Value) -> Result<Self, UnreadableNotice> {
        let read = match kind {
            "held" => parse(facts).map(Self::Held),
            "confirmed" => parse(facts).map(Self::Confirmed),
            "expired" => parse(facts).map(Self::Expired),
            "cancelled" => parse(facts).map(Self::Cancelled),
            "refunded" => parse(facts).map(Self::Refunded),
            "reminder" => parse(facts).map(Self::Reminder),
            "event_changed" => parse(facts).map(Self::EventChanged),
            "event_cancelled" => parse(facts).map(Self::EventCancelled),
            "transferred" => parse(facts).map(Self::Transferred),
            "received" => parse(facts).map(Self::Received),
            "withdrawn" => parse(facts).map(Self::Withdrawn),
            _ => Err(serde::de::Error::custom("there is no such kind")),
        };
        read.map_err(|source| UnreadableNotice {
            kind: kind.to_owned(),
            source,
        })
    }

    /// Tells apart notices of a kind that a booking may have more than one of.
    pub(crate) fn occasion(&self) -> i64 {
        match self {
            Self::Refunded(refund) => refund.number,
            Self::Transferred(facts) | Self::Received(facts) | Self::Withdrawn(facts) => {
                facts.number
            }
            _ => 0,
        }
    }

    /// The word in the database, in metrics and in the `Message-ID`.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Held(_) => "held",
            Self::Confirmed(_) => "confirmed",
            Self::Expired(_) => "expired",
            Self::Cancelled(_) => "cancelled",
            Self::Refunded(_) => "refunded",
            Self::Reminder(_) => News::Reminder.kind(),
            Self::EventChanged(_) => News::EventChanged.kind(),
            Self::EventCancelled(_) => News::EventCancelled.kind(),
            Self::Transferred(_) => "transferred",
            Self::Received(_) => "received",
            Self::Withdrawn(_) => "withdrawn",
        }
    }

    /// The facts as JSON, to be stored.
    ///
    /// # Errors
    /// When they can't be written as JSON.
    pub(crate) fn facts(&self) -> serde_json::Result<String> {
        fn json(facts: &impl Serialize) -> serde_json::Result<String> {
            serde_json::to_string(facts)
        }
        match self {
            Self::Held(facts) => json(facts),
            Self::Confirmed(facts) => json(facts),
            Self::Reminder(facts) | Self::EventChanged(facts) | Self::EventCancelled(facts) => {
                json(facts)
            }
            Self::Expired(facts) => json(facts),
            Self::Cancelled(facts) => json(facts),
            Self::Refunded(facts) => json(facts),
            Self::Transferred(facts) | Self::Received(facts) | Self::Withdrawn(facts) => {
                json(facts)
            }
        }
    }

    /// Whether it also goes out as an SMS.
    pub(crate) fn is_worth_an_sms(&self) -> bool {
        match self {
            Self::Confirmed(_)
            | Self::Cancelled(_)
            | Self::Reminder(_)
            | Self::EventChanged(_)
            | Self::EventCancelled(_) => true,
            Self::Held(_)
            | Self::Expired(_)
            | Self::Refunded(_)
            | Self::Transferred(_)
            | Self::Received(_)
            | Self::Withdrawn(_) => false,
        }
    }

    /// The booking, as far as the message carries it.
    pub(crate) fn booking(&self) -> Option<&BookingFacts> {
        match self {
            Self::Held(facts) => Some(&facts.booking),
            Self::Confirmed(facts) => Some(&facts.booking),
            Self::Reminder(facts) | Self::EventChanged(facts) | Self::EventCancelled(facts) => {
                Some(&facts.booking)
            }
            Self::Expired(facts) => Some(&facts.booking),
            Self::Cancelled(facts) => Some(&facts.booking),
            Self::Transferred(facts) | Self::Received(facts) | Self::Withdrawn(facts) => {
                Some(&facts.booking)
            }
            Self::Refunded(_) => None,
        }
    }

    /// Who reads it, when it is news of an event for somebody who did not buy the tickets.
    pub(crate) fn received_by(&self) -> Option<AccountId> {
        match self {
            Self::Reminder(facts) | Self::EventChanged(facts) | Self::EventCancelled(facts) => {
                facts.received_by
            }
            _ => None,
        }
    }

    /// The booking's id.
    pub(crate) fn booking_id(&self) -> BookingId {
        match self {
            Self::Refunded(facts) => facts.booking_id,
            _ => {
                self.booking()
                    .expect("every other message carries the booking")
                    .booking_id
            }
        }
    }
}

fn parse<T: DeserializeOwned>(facts: Value) -> serde_json::Result<T> {
    serde_json::from_value(facts)
}
