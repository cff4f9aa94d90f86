//! Message contracts between services, over RabbitMQ: commands (imperative, to one service), events
//! (past tense, versioned, to every queue bound to them), and replies to the node that sent a
//! command.
//!
//! Commands and events are delivered at least once and unordered: their effect must not depend on
//! either. Replies are delivered at most once.

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::booking::{
    BookingFacts, BookingState, CancelRefusal, EndReason, RejectReason, TicketFacts, Wish,
};
use crate::event::Event;
use crate::payment::VoidReason;
use crate::sale::SaleSettings;
use crate::{AccountId, BookingId, EventId, Money};

/// A message: a name, which is also its routing key, and a JSON body.
pub trait Message: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The name, such as `hold.placed.v1`.
    const NAME: &'static str;

    /// The booking it is about, if it is about one. Its trace is the booking's.
    fn booking(&self) -> Option<BookingId>;
}

macro_rules! message {
    ($type:ty, $name:literal) => {
        message!($type, $name, |_message| None);
    };
    ($type:ty, $name:literal, |$message:ident| $booking:expr) => {
        impl Message for $type {
            const NAME: &'static str = $name;

            fn booking(&self) -> Option<BookingId> {
                let $message = self;
                $booking
            }
        }
    };
}

/// Deserialises an optional value leniently: `None` for one of a later version.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    let value = Option::<Value>::deserialize(deserializer)?;
    Ok(value.and_then(|value| serde_json::from_value(value).ok()))
}

// Commands to the booking worker.

/// Hold seats for a request that admission accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaceHold {
    /// The id admission gave it.
    pub booking_id: BookingId,
    /// The event.
    pub event_id: EventId,
    /// The buyer.
    pub account_id: AccountId,
    /// The requested seats.
    pub wish: Wish,
    /// When admission accepted it.
    pub accepted_at: DateTime<Utc>,
    /// The admission node that waits for the outcome.
    pub reply_to: String,
    /// Time of the request; of a repeat, later than the acceptance.
    #[serde(default)]
    pub asked_at: Option<DateTime<Utc>>,
    /// The requester: the buyer, or staff for the buyer.
    #[serde(default)]
    pub asked_by: Option<AccountId>,
}
message!(PlaceHold, "booking.place-hold", |message| Some(
    message.booking_id
));

/// Cancel a booking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelBooking {
    /// The booking.
    pub booking_id: BookingId,
    /// Its event.
    pub event_id: EventId,
    /// The requester; already authorised as the owner or staff.
    pub asked_by: AccountId,
    /// The admission node that waits for the outcome.
    pub reply_to: String,
}
message!(CancelBooking, "booking.cancel", |message| Some(
    message.booking_id
));

/// Outcomes of commands, for the admission node that awaits them. Published at most once and not
/// persistent: a node that misses it answers 202, and the buyer polls the booking.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookingOutcomes {
    /// One for each command.
    pub outcomes: Vec<BookingOutcome>,
}
message!(BookingOutcomes, "booking.outcomes");

/// The outcome of a [`PlaceHold`] or a [`CancelBooking`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookingOutcome {
    /// The booking.
    pub booking_id: BookingId,
    /// The outcome.
    pub outcome: Outcome,
    /// Reason for not cancelling a confirmed booking; none for a reason of a later version.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "lenient"
    )]
    pub why: Option<CancelRefusal>,
}

/// The outcome of a command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Seats are held.
    Held(BookingFacts),
    /// No seats were allocated.
    Rejected(RejectReason),
    /// Nothing was due, so the tickets exist already.
    Confirmed(BookingFacts),
    /// The cancellation is done, or certain to be.
    Cancelled,
    /// The booking's state does not allow the command.
    Refused(BookingState),
}

// Events of the booking worker.

/// Seats are held; a payment is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldPlaced {
    /// The booking.
    pub booking: BookingFacts,
}
message!(HoldPlaced, "hold.placed.v1", |message| Some(
    message.booking.booking_id
));

/// Tickets exist: capture what is due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookingConfirmed {
    /// The booking.
    pub booking: BookingFacts,
    /// Its tickets.
    pub tickets: Vec<TicketFacts>,
}
message!(BookingConfirmed, "booking.confirmed.v1", |message| Some(
    message.booking.booking_id
));

/// A confirmed booking is paid, or free: send the tickets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookingPaid {
    /// The booking.
    pub booking: BookingFacts,
    /// Its tickets.
    pub tickets: Vec<TicketFacts>,
}
message!(BookingPaid, "booking.paid.v1", |message| Some(
    message.booking.booking_id
));

/// A hold ended unpaid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookingExpired {
    /// The booking.
    pub booking: BookingFacts,
    /// Reason for ending before `hold_until`; none when that passed, or for a reason of a later
    /// version.
    #[serde(default, deserialize_with = "lenient")]
    pub reason: Option<EndReason>,
}
message!(BookingExpired, "booking.expired.v1", |message| Some(
    message.booking.booking_id
));

/// A booking was cancelled. The captured amount is to be refunded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BookingCancelled {
    /// The booking.
    pub booking: BookingFacts,
    /// Whether it had tickets.
    pub was_confirmed: bool,
    /// The requester and the time; none when its payment was impossible or its event is
    /// cancelled. A buyer's own cancellation is refunded by the event's policy, others in full.
    #[serde(default)]
    pub asked: Option<CancelAsked>,
}

/// The requester and the time of a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CancelAsked {
    /// The owner of the booking, or staff.
    pub by: AccountId,
    /// When.
    pub at: DateTime<Utc>,
}
message!(BookingCancelled, "booking.cancelled.v1", |message| Some(
    message.booking.booking_id
));

/// A ticket was transferred to another account, or its code was replaced at its holder's request:
/// the old code is invalid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketTransferred {
    /// The booking, which stays the buyer's.
    pub booking: BookingFacts,
    /// The ticket as its new holder has it.
    pub ticket: TicketFacts,
    /// The former holder.
    pub from: AccountId,
    /// The new holder.
    pub to: AccountId,
    /// Which of the booking's changes of codes it is, from 1.
    pub number: i64,
}
message!(TicketTransferred, "ticket.transferred.v1", |message| Some(
    message.booking.booking_id
));

/// Command to the payment worker: void the payment of this booking, and report the outcome with
/// [`PaymentVoided`] or [`PaymentAuthorised`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoidPayment {
    /// The booking.
    pub booking_id: BookingId,
    /// Why.
    pub reason: VoidReason,
}
message!(VoidPayment, "payment.void", |message| Some(
    message.booking_id
));

// Events of the payment worker.

/// The buyer authorised the payment. Also the answer to a void that came too late.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentAuthorised {
    /// The booking.
    pub booking_id: BookingId,
    /// The authorised amount.
    pub amount: Money,
}
message!(PaymentAuthorised, "payment.authorised.v1", |message| Some(
    message.booking_id
));

/// The money is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentCaptured {
    /// The booking.
    pub booking_id: BookingId,
    /// The captured amount.
    pub amount: Money,
}
message!(PaymentCaptured, "payment.captured.v1", |message| Some(
    message.booking_id
));

/// No money was taken, and none can be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentVoided {
    /// The booking.
    pub booking_id: BookingId,
}
message!(PaymentVoided, "payment.voided.v1", |message| Some(
    message.booking_id
));

/// The capture of a confirmed booking is finally impossible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentFailed {
    /// The booking.
    pub booking_id: BookingId,
    /// Stripe's word for it.
    pub reason: String,
    /// Whether Stripe refused to create the payment, regardless of the payer.
    #[serde(default)]
    pub is_refused: bool,
}
message!(PaymentFailed, "payment.failed.v1", |message| Some(
    message.booking_id
));

/// A refund is on its way back to the buyer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundSucceeded {
    /// The booking.
    pub booking_id: BookingId,
    /// The event.
    pub event_id: EventId,
    /// The buyer.
    pub account_id: AccountId,
    /// The refunded amount.
    pub amount: Money,
    /// Which of the booking's refunds it is, from 0: there may be several, each in parts.
    #[serde(default)]
    pub number: i64,
}
message!(RefundSucceeded, "refund.succeeded.v1", |message| Some(
    message.booking_id
));

/// A refund was refused for good, or the bank sent the money back, perhaps after
/// [`RefundSucceeded`]. Staff must look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefundFailed {
    /// The booking.
    pub booking_id: BookingId,
    /// The event.
    pub event_id: EventId,
    /// The buyer.
    pub account_id: AccountId,
    /// The amount that does not reach the buyer.
    pub amount: Money,
    /// Which of the booking's refunds it is, from 0.
    pub number: i64,
}
message!(RefundFailed, "refund.failed.v1", |message| Some(
    message.booking_id
));

// Events of box-office.

/// An event was created, changed or cancelled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventChanged {
    /// The event as it is now.
    pub event: Event,
}
message!(EventChanged, "event.changed.v1");

/// A sale's settings changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaleChanged {
    /// The settings as they are now.
    pub sale: SaleSettings,
}
message!(SaleChanged, "sale.changed.v1");

/// Staff took back the pass that an account has in a sale.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassRevoked {
    /// The sale.
    pub event_id: EventId,
    /// The holder of the pass.
    pub account_id: AccountId,
    /// When; a pass that was issued later is not meant.
    pub at: DateTime<Utc>,
}
message!(PassRevoked, "pass.revoked.v1");

/// An entry for the audit log, which box-office owns, from another service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditNoted {
    /// Its id; the same in a redelivery.
    pub id: Uuid,
    /// When it was done.
    pub at: DateTime<Utc>,
    /// The account that did it.
    pub actor: AccountId,
    /// The action, such as `refund.staff`.
    pub action: String,
    /// The object, such as `booking:ID`.
    pub subject: String,
    /// The new values.
    pub detail: Value,
}
message!(AuditNoted, "audit.noted.v1");

impl AuditNoted {
    /// Creates a note with a new id, for the transaction of the action.
    #[must_use]
    pub fn new(
        actor: AccountId,
        action: &str,
        subject: String,
        detail: Value,
        at: DateTime<Utc>,
    ) -> Self {
        Self {
            id: Uuid::new_v4(),
            at,
            actor,
            action: action.to_owned(),
            subject,
            detail,
        }
    }
}

/// A confirmation code is to be sent to an address or a phone. The code itself is derived by the
/// sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfirmationAsked {
    /// The account that the address is to belong to.
    pub account_id: AccountId,
    /// The channel of the code.
    pub channel: ContactChannel,
    /// The mail address, or the phone number.
    pub address: String,
    /// The input that the code is derived from.
    pub nonce: Uuid,
    /// Expiry of the code.
    pub good_until: DateTime<Utc>,
}
message!(ConfirmationAsked, "account.confirmation-asked.v1");

/// A way to reach somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContactChannel {
    /// Mail.
    Email,
    /// SMS.
    Sms,
}

impl ContactChannel {
    /// The word on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Sms => "sms",
        }
    }
}

/// An account was created, or its contact data changed or was confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountChanged {
    /// The account.
    pub account_id: AccountId,
    /// Grows with every change.
    pub version: i64,
    /// Where mail goes.
    pub email: String,
    /// The display name; empty when unknown.
    pub name: String,
    /// Where SMS go, in E.164.
    pub phone: Option<String>,
}
message!(AccountChanged, "account.changed.v1");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_has_one_word_everywhere() {
        for channel in [ContactChannel::Email, ContactChannel::Sms] {
            assert_eq!(serde_json::json!(channel), channel.as_str());
        }
    }

    #[test]
    fn a_reason_of_a_later_version_spoils_no_message() {
        let outcomes = r#"{"outcomes": [
            {"booking_id": "0199aaaa-0000-7000-8000-000000000001", "outcome": {"rejected": "full_moon"}},
            {"booking_id": "0199aaaa-0000-7000-8000-000000000002", "outcome": {"refused": "confirmed"},
             "why": "full_moon"},
            {"booking_id": "0199aaaa-0000-7000-8000-000000000003", "outcome": {"refused": "confirmed"},
             "why": "checked_in"}]}"#;
        let BookingOutcomes { outcomes } = serde_json::from_str(outcomes).unwrap();
        let unknown = Outcome::Rejected(RejectReason::Unknown);
        assert_eq!((&outcomes[0].outcome, outcomes[0].why), (&unknown, None));
        assert_eq!(outcomes[1].why, None);
        assert_eq!(outcomes[2].why, Some(CancelRefusal::CheckedIn));
    }
}
