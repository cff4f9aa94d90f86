//! Who reaches a booking: its owner on the public listener, staff of its event on the internal one.

use domain::account::Role;
use domain::message::{AuditNoted, Message as _};
use domain::{AccountId, EventId};
use platform::amqp::Exchange;
use platform::auth::Caller;
use platform::problem::{Kind, Problem};
use serde_json::json;
use uuid::Uuid;

use super::get::unknown;
use super::view::BookingView;
use crate::Desk;

/// As whom the callers of a listener act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Buyers, each for themselves, whatever other roles they have.
    Owner,
    /// Operators for all bookings, organisers for those of their events.
    Staff,
}

/// The role that reaches bookings of every event.
const EVERYWHERE: [Role; 1] = [Role::Operator];

impl Access {
    /// Refuses callers who don't reach a booking of `owner`.
    ///
    /// # Errors
    /// `forbidden`, and `not-found` for a booking of another organiser's event.
    pub(super) async fn check(
        self,
        desk: &Desk,
        caller: &Caller,
        event_id: EventId,
        owner: AccountId,
    ) -> Result<(), Problem> {
        match self {
            Self::Owner if caller.account_id == owner => Ok(()),
            Self::Owner => Err(Problem::new(
                Kind::Forbidden,
                "This booking is another account's.",
            )),
            Self::Staff => {
                let db = &desk.ctx.db;
                let reached = caller.require_event(db, event_id, &EVERYWHERE).await;
                reached.map_err(|problem| match problem.kind() {
                    Kind::NotFound => unknown(),
                    _ => problem,
                })
            }
        }
    }

    /// Refuses callers who don't reach the bookings of `owner` at all.
    ///
    /// # Errors
    /// `forbidden`.
    pub(super) fn check_owner(self, caller: &Caller, owner: AccountId) -> Result<(), Problem> {
        if self == Self::Staff || caller.account_id == owner {
            return Ok(());
        }
        Err(Problem::new(
            Kind::Forbidden,
            "You can see your own bookings only.",
        ))
    }

    /// Those of `bookings` that the caller reaches.
    ///
    /// # Errors
    /// `forbidden` when it can't be any.
    pub(super) async fn filter(
        self,
        desk: &Desk,
        caller: &Caller,
        bookings: Vec<BookingView>,
    ) -> Result<Vec<BookingView>, Problem> {
        if self == Self::Owner {
            return Ok(bookings);
        }
        let ids: Vec<_> = bookings.iter().map(|booking| booking.event_id).collect();
        let db = &desk.ctx.db;
        let reached = caller.reachable_events(db, &ids, &EVERYWHERE).await?;
        let is_reached = |booking: &BookingView| reached.contains(&booking.event_id);
        Ok(bookings.into_iter().filter(is_reached).collect())
    }

    /// Tells the audit log that a member of staff reads `subject`, before it is shown. (What staff
    /// change is noted by the booking worker, with the change.)
    ///
    /// # Errors
    /// `overloaded` when it can't be told.
    pub(super) async fn note_reading(
        self,
        desk: &Desk,
        caller: &Caller,
        subject: impl FnOnce() -> String,
    ) -> Result<(), Problem> {
        if self == Self::Owner {
            return Ok(());
        }
        let note = AuditNoted {
            id: Uuid::new_v4(),
            at: desk.ctx.clock.now(),
            actor: caller.account_id,
            action: "booking.read".to_owned(),
            subject: subject(),
            detail: json!({}),
        };
        let broker = &desk.ctx.broker;
        let told = broker.publish(Exchange::Events, AuditNoted::NAME, &note, note.id);
        told.await.map_err(|error| Problem::overloaded(&error))
    }
}
