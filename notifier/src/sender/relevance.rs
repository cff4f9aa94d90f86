//! Relevance check right before sending: a message may be outdated by the time it is due.

use chrono::{DateTime, Utc};
use domain::event::EventState;

use crate::notice::{Announced, Channel, Notice};
use crate::store::queue::Due;

/// The new holder gets a notice of their own.
const GIVEN_AWAY: &str = "the reader has transferred the tickets";
const BOOKING_CANCELLED: &str = "the booking was cancelled";
const EVENT_CANCELLED: &str = "the event was cancelled";
/// A reader gets one message about a cancelled event.
const COVERED_BY_EVENT: &str = "the reader is notified that the event was cancelled";

/// Limits per reader and hour on notices that can be triggered for free.
const MAILS_PER_HOUR: i64 = 20;
const SMS_PER_HOUR: i64 = 5;

/// Returns the reason to skip a message that exceeds the reader's hourly limit.
pub(super) fn why_too_many(due: &Due) -> Option<&'static str> {
    let most = match due.channel {
        Channel::Email => MAILS_PER_HOUR,
        Channel::Sms => SMS_PER_HOUR,
    };
    (due.notice.is_free_to_cause() && due.sent_lately >= most)
        .then_some("the reader was sent too many messages within an hour")
}

/// Returns the reason to skip a message that is no longer true.
pub(super) fn why_outdated(due: &Due, now: DateTime<Utc>) -> Option<&'static str> {
    let event = &due.event;
    let is_off = event.state == EventState::Cancelled;
    let first_of = |reasons: &[(bool, &'static str)]| {
        let holds = reasons.iter().find(|(holds, _)| *holds);
        holds.map(|(_, reason)| *reason)
    };
    match &due.notice {
        Notice::Held(facts) => first_of(&[(
            due.is_decided || facts.booking.hold_until <= now,
            "the hold has ended",
        )]),
        Notice::Confirmed(_) => first_of(&[(!due.is_live, BOOKING_CANCELLED)]),
        Notice::Reminder(_) => first_of(&[
            (!due.is_live, BOOKING_CANCELLED),
            (!due.holds_tickets, GIVEN_AWAY),
            (is_off, EVENT_CANCELLED),
            (
                event.date.timestamp() != due.occasion,
                "the event was moved",
            ),
            (event.date <= now, "the event has begun"),
        ]),
        Notice::EventChanged(holding) => first_of(&[
            (!due.is_live, BOOKING_CANCELLED),
            (!due.holds_tickets, GIVEN_AWAY),
            (is_off, EVENT_CANCELLED),
            (
                holding.before.as_ref() == Some(&Announced::of(event)),
                "the event is again as the reader knows it",
            ),
        ]),
        Notice::EventCancelled(_) => first_of(&[(!is_off, "the event takes place after all")]),
        Notice::Received(_) => first_of(&[
            (!due.is_live, BOOKING_CANCELLED),
            (!due.is_received, GIVEN_AWAY),
        ]),
        Notice::Cancelled(facts) => first_of(&[(
            facts.asked.is_none() && due.hears_event_cancelled,
            COVERED_BY_EVENT,
        )]),
        Notice::Withdrawn(_) => first_of(&[(due.hears_event_cancelled, COVERED_BY_EVENT)]),
        Notice::Expired(_)
        | Notice::Refunded(_)
        | Notice::RefundFailed(_)
        | Notice::Transferred(_) => None,
    }
}
