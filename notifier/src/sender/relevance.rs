//! Whether a message is still true when its turn comes, which may be long after it was written.

use chrono::{DateTime, Utc};
use domain::event::EventState;

use crate::notice::Notice;
use crate::store::notifications::Due;

/// Its new holder hears of the event as it is.
const GIVEN_AWAY: &str = "the reader has transferred the tickets";

/// Why a message must not be sent any more.
pub(super) fn why_outdated(notice: &Notice, due: &Due, now: DateTime<Utc>) -> Option<&'static str> {
    let is_off = due.event.state == EventState::Cancelled;
    let if_so = |holds: bool, reason| holds.then_some(reason);
    match notice {
        Notice::Held(facts) => if_so(
            due.is_decided || facts.booking.hold_until <= now,
            "the hold has ended",
        ),
        Notice::Confirmed(_) => if_so(!due.is_live, "the booking was cancelled"),
        Notice::Reminder(_) => if_so(!due.is_live, "the booking was cancelled")
            .or(if_so(!due.is_holder, GIVEN_AWAY))
            .or(if_so(is_off, "the event was cancelled"))
            .or(if_so(
                due.event.date.timestamp() != due.occasion,
                "the event was moved",
            ))
            .or(if_so(due.event.date <= now, "the event has begun")),
        Notice::EventChanged(_) => if_so(!due.is_live, "the booking was cancelled")
            .or(if_so(!due.is_holder, GIVEN_AWAY))
            .or(if_so(is_off, "the event was cancelled")),
        Notice::EventCancelled(_) => if_so(!is_off, "the event takes place after all"),
        Notice::Received(_) => {
            if_so(!due.is_live, "the booking was cancelled").or(if_so(!due.is_holder, GIVEN_AWAY))
        }
        Notice::Expired(_)
        | Notice::Cancelled(_)
        | Notice::Refunded(_)
        | Notice::Transferred(_)
        | Notice::Withdrawn(_) => None,
    }
}
