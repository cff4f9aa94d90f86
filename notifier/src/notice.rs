//! The kinds of notices, their priority classes and their stored facts.

use chrono::{DateTime, Utc};
use domain::booking::{BookingFacts, TicketFacts};
use domain::event::{Event, EventState};
use domain::message::{
    BookingCancelled, BookingExpired, BookingPaid, ContactChannel, HoldPlaced, RefundFailed,
    RefundSucceeded, TicketTransferred,
};
use domain::{AccountId, BookingId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Delivery channel of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Email,
    Sms,
}

impl Channel {
    /// Name in the database and in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Sms => "sms",
        }
    }

    /// Parses the name in the database.
    pub(crate) fn parse(word: &str) -> Option<Self> {
        [Self::Email, Self::Sms]
            .into_iter()
            .find(|channel| channel.as_str() == word)
    }
}

impl From<ContactChannel> for Channel {
    fn from(channel: ContactChannel) -> Self {
        match channel {
            ContactChannel::Email => Self::Email,
            ContactChannel::Sms => Self::Sms,
        }
    }
}

/// Priority class of a notice. Each class has a reserved share of the concurrency
/// (`sender/bulkheads.rs`), which avoids head-of-line blocking between classes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Tickets, and the end of a booking or ticket: somebody is waiting for them.
    Ticket,
    /// Useful for some minutes only.
    Deadline,
    /// Bulk mail for thousands of readers, and notices that are as useful an hour later.
    News,
}

impl Urgency {
    /// In descending priority.
    pub(crate) const ALL: [Self; 3] = [Self::Ticket, Self::Deadline, Self::News];

    /// Kinds of this class, by their names in the database. Rows of kinds in no class belong to a
    /// later version, and are left to it.
    pub(crate) fn kinds(self) -> Vec<String> {
        let of_class = NoticeKind::ALL.iter().filter(|kind| kind.urgency() == self);
        of_class.map(|kind| kind.as_str().to_owned()).collect()
    }
}

/// Declares [`NoticeKind`] from one table of variant, name and priority class.
macro_rules! kinds {
    ($($kind:ident = $name:literal in $urgency:ident,)+) => {
        /// The kind of a notice.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum NoticeKind {
            $($kind,)+
        }

        impl NoticeKind {
            /// All kinds that this version can send.
            pub(crate) const ALL: &[Self] = &[$(Self::$kind,)+];

            /// Name in the database, in metrics and in the `Message-ID`.
            pub(crate) const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)+
                }
            }

            const fn urgency(self) -> Urgency {
                match self {
                    $(Self::$kind => Urgency::$urgency,)+
                }
            }
        }
    };
}

kinds! {
    Confirmed = "confirmed" in Ticket,
    Received = "received" in Ticket,
    Transferred = "transferred" in Ticket,
    Cancelled = "cancelled" in Ticket,
    Withdrawn = "withdrawn" in Ticket,
    Held = "held" in Deadline,
    Refunded = "refunded" in News,
    RefundFailed = "refund_failed" in News,
    Expired = "expired" in News,
    Reminder = "reminder" in News,
    EventChanged = "event_changed" in News,
    EventCancelled = "event_cancelled" in News,
}

impl NoticeKind {
    /// Parses the name in the database; `None` for a kind of a later version.
    fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }
}

/// The part of a paid booking that one account holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Holding {
    pub(crate) booking: BookingFacts,
    /// Empty for a buyer who has transferred all.
    pub(crate) tickets: Vec<TicketFacts>,
    /// The account, if it is not the buyer.
    #[serde(default)]
    pub(crate) received_by: Option<AccountId>,
    /// The event as last announced to the reader, in a notice about a change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<Announced>,
}

/// The fields of an event that readers are informed about; changes of others are not announced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Announced {
    pub(crate) name: String,
    pub(crate) date: DateTime<Utc>,
    pub(crate) venue: String,
    pub(crate) city: String,
    pub(crate) time_zone: String,
    pub(crate) cancelled: bool,
}

impl Announced {
    /// Extracts the fields from an event.
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

/// A notice with its facts; the event is stored separately.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Notice {
    /// Seats are held until a payment deadline.
    Held(HoldPlaced),
    /// The booking is paid; carries the tickets.
    Confirmed(BookingPaid),
    /// The hold expired unpaid.
    Expired(BookingExpired),
    /// The booking was cancelled.
    Cancelled(BookingCancelled),
    /// A refund succeeded.
    Refunded(RefundSucceeded),
    /// The bank refused a refund.
    RefundFailed(RefundFailed),
    /// The event begins soon.
    Reminder(Holding),
    /// Name, time or place of the event changed, or it was reinstated.
    EventChanged(Holding),
    /// The event was cancelled.
    EventCancelled(Holding),
    /// To the former holder of a transferred ticket.
    Transferred(TicketTransferred),
    /// To the new holder of a transferred ticket.
    Received(TicketTransferred),
    /// To the holder of a transferred ticket whose booking was cancelled.
    Withdrawn(TicketTransferred),
}

/// Error for a row whose facts don't parse as its kind.
#[derive(Debug, thiserror::Error)]
#[error("failed to parse the facts of a notification of kind {kind}")]
pub(crate) struct UnreadableNotice {
    kind: String,
    source: serde_json::Error,
}

impl Notice {
    /// Parses the columns `kind` and `facts`.
    ///
    /// # Errors
    /// [`UnreadableNotice`] for an unknown kind, or facts of another form.
    pub(crate) fn read(kind: &str, facts: Value) -> Result<Self, UnreadableNotice> {
        let read = match NoticeKind::parse(kind) {
            Some(NoticeKind::Held) => parse(facts).map(Self::Held),
            Some(NoticeKind::Confirmed) => parse(facts).map(Self::Confirmed),
            Some(NoticeKind::Expired) => parse(facts).map(Self::Expired),
            Some(NoticeKind::Cancelled) => parse(facts).map(Self::Cancelled),
            Some(NoticeKind::Refunded) => parse(facts).map(Self::Refunded),
            Some(NoticeKind::RefundFailed) => parse(facts).map(Self::RefundFailed),
            Some(NoticeKind::Reminder) => parse(facts).map(Self::Reminder),
            Some(NoticeKind::EventChanged) => parse(facts).map(Self::EventChanged),
            Some(NoticeKind::EventCancelled) => parse(facts).map(Self::EventCancelled),
            Some(NoticeKind::Transferred) => parse(facts).map(Self::Transferred),
            Some(NoticeKind::Received) => parse(facts).map(Self::Received),
            Some(NoticeKind::Withdrawn) => parse(facts).map(Self::Withdrawn),
            None => Err(serde::de::Error::custom("unknown kind")),
        };
        read.map_err(|source| UnreadableNotice {
            kind: kind.to_owned(),
            source,
        })
    }

    /// Distinguishes several notices of one kind and booking; part of the unique key.
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

    /// The kind, without the facts.
    pub(crate) fn kind(&self) -> NoticeKind {
        match self {
            Self::Held(_) => NoticeKind::Held,
            Self::Confirmed(_) => NoticeKind::Confirmed,
            Self::Expired(_) => NoticeKind::Expired,
            Self::Cancelled(_) => NoticeKind::Cancelled,
            Self::Refunded(_) => NoticeKind::Refunded,
            Self::RefundFailed(_) => NoticeKind::RefundFailed,
            Self::Reminder(_) => NoticeKind::Reminder,
            Self::EventChanged(_) => NoticeKind::EventChanged,
            Self::EventCancelled(_) => NoticeKind::EventCancelled,
            Self::Transferred(_) => NoticeKind::Transferred,
            Self::Received(_) => NoticeKind::Received,
            Self::Withdrawn(_) => NoticeKind::Withdrawn,
        }
    }

    /// Serializes the facts for storage.
    ///
    /// # Errors
    /// When serialization fails.
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

    /// Returns true if it is also sent by SMS.
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

    /// Returns true if it can be triggered any number of times without paying, such as by abandoned
    /// holds or cancelled free bookings. Such notices are rate-limited per reader.
    pub(crate) fn is_free_to_cause(&self) -> bool {
        match self {
            Self::Held(_) | Self::Expired(_) => true,
            Self::Confirmed(facts) => facts.booking.total.is_zero(),
            Self::Cancelled(facts) => !facts.was_confirmed || facts.booking.total.is_zero(),
            _ => false,
        }
    }

    /// The booking; `None` for refunds, which carry only its id.
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

    /// The reader of event news who is not the buyer.
    pub(crate) fn received_by(&self) -> Option<AccountId> {
        match self {
            Self::Reminder(facts) | Self::EventChanged(facts) | Self::EventCancelled(facts) => {
                facts.received_by
            }
            _ => None,
        }
    }

    /// The id of the booking it is about.
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
        let claimed = Urgency::ALL.map(Urgency::kinds).concat();
        assert_eq!(claimed.len(), NoticeKind::ALL.len());
        for kind in claimed {
            let error = Notice::read(&kind, Value::Null).unwrap_err();
            let source = error.source.to_string();
            assert!(!source.contains("unknown kind"), "{kind}: {source}");
        }
        let error = Notice::read("tomorrow", Value::Null).unwrap_err();
        assert!(error.source.to_string().contains("unknown kind"));
    }
}
