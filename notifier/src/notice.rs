//! What buyers are told.

use chrono::{DateTime, Utc};
use domain::booking::{BookingFacts, TicketFacts};
use domain::event::{Event, EventState};
use domain::message::{
    BookingCancelled, BookingExpired, BookingPaid, HoldPlaced, RefundFailed, RefundSucceeded,
    TicketTransferred,
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

/// The order in which notices that wait are sent. Each class has a share of the places, so that
/// none waits behind another ([`Places`](crate::sender::places::Places)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// What a reader waits for: tickets, and what became of them or of the money.
    Ticket,
    /// What is of use only for some minutes.
    Deadline,
    /// What is as good an hour later, and comes to thousands at once.
    News,
}

impl Urgency {
    /// Most urgent first.
    pub(crate) const ALL: [Self; 3] = [Self::Ticket, Self::Deadline, Self::News];

    /// The kinds of this class, as they stand in the database. A kind that is in none is of a later
    /// version, and left to it.
    pub(crate) fn kinds(self) -> Vec<String> {
        let of_class = KINDS.iter().filter(|(_, urgency)| *urgency == self);
        of_class.map(|(kind, _)| (*kind).to_owned()).collect()
    }
}

/// Every kind that this version can send.
pub(crate) const KINDS: [(&str, Urgency); 12] = [
    ("confirmed", Urgency::Ticket),
    ("received", Urgency::Ticket),
    ("transferred", Urgency::Ticket),
    ("cancelled", Urgency::Ticket),
    ("withdrawn", Urgency::Ticket),
    ("held", Urgency::Deadline),
    ("refunded", Urgency::News),
    ("refund_failed", Urgency::News),
    ("expired", Urgency::News),
    ("reminder", Urgency::News),
    ("event_changed", Urgency::News),
    ("event_cancelled", Urgency::News),
];

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
    /// The event as the reader knows it, when this is about a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<Told>,
}

/// What readers are told of an event: a change of anything else is no news.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    pub(crate) name: String,
    pub(crate) date: DateTime<Utc>,
    pub(crate) venue: String,
    pub(crate) city: String,
    pub(crate) time_zone: String,
    pub(crate) cancelled: bool,
}

impl Told {
    /// What is told of the event as it is.
    pub(crate) fn of(event: &Event) -> Self {
        Self {
            name: event.name.clone(),
            date: event.date,
            venue: event.venue.clone(),
            city: event.city.clone(),
            time_zone: event.time_zone.clone(),
            cancelled: event.state == EventState::Cancelled,
        }
    }
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
    /// The bank did not take the money.
    RefundFailed(RefundFailed),
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
            "refund_failed" => parse(facts).map(Self::RefundFailed),
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
            Self::RefundFailed(refund) => refund.number,
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
            Self::RefundFailed(_) => "refund_failed",
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
            Self::RefundFailed(facts) => json(facts),
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
            | Self::RefundFailed(_)
            | Self::Transferred(_)
            | Self::Received(_)
            | Self::Withdrawn(_) => false,
        }
    }

    /// Whether anybody can cause any number of them without paying: a hold that is given up, a free
    /// booking that is cancelled.
    pub(crate) fn is_free_to_cause(&self) -> bool {
        match self {
            Self::Held(_) | Self::Expired(_) => true,
            Self::Confirmed(facts) => facts.booking.total.is_zero(),
            Self::Cancelled(facts) => !facts.was_confirmed || facts.booking.total.is_zero(),
            _ => false,
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
            Self::Refunded(_) | Self::RefundFailed(_) => None,
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
            Self::RefundFailed(facts) => facts.booking_id,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_is_claimed_can_be_read() {
        for (kind, _) in KINDS {
            let error = Notice::read(kind, Value::Null).unwrap_err();
            let source = error.source.to_string();
            assert!(!source.contains("no such kind"), "{kind}: {source}");
        }
        let error = Notice::read("tomorrow", Value::Null).unwrap_err();
        assert!(error.source.to_string().contains("no such kind"));
    }
}
