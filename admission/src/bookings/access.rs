//! Authorisation: a booking is visible to its owner on the public listener, and to staff of its
//! event on the internal one.

use domain::account::Role;
use domain::message::{AuditNoted, Message as _};
use domain::{AccountId, EventId};
use platform::amqp::Exchange;
use platform::auth::Caller;
use platform::problem::{Kind, Problem};
use serde_json::json;

use super::view::BookingView;
use crate::state::AppState;

/// The capacity in which a listener's callers act.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Buyers, each for themselves, whatever roles they have.
    Owner,
    /// Operators on all bookings, organisers on those of their events.
    Staff,
}

/// Roles that reach the bookings of every event.
const EVERYWHERE: [Role; 1] = [Role::Operator];

pub(super) fn unknown() -> Problem {
    Problem::new(Kind::NotFound, "There is no booking with this id.")
}

impl Access {
    /// Checks that the caller may reach a booking of `owner` in the event.
    ///
    /// # Errors
    /// `forbidden`; `not-found` when the event belongs to another organiser.
    pub(super) async fn check(
        self,
        state: &AppState,
        caller: &Caller,
        event_id: EventId,
        owner: AccountId,
    ) -> Result<(), Problem> {
        match self {
            Self::Owner if caller.account_id == owner => Ok(()),
            Self::Owner => Err(Problem::new(
                Kind::Forbidden,
                "The booking belongs to another account.",
            )),
            Self::Staff => {
                let db = &state.ctx.db;
                let reached = caller.require_event(db, event_id, &EVERYWHERE).await;
                reached.map_err(|problem| match problem.kind() {
                    Kind::NotFound => unknown(),
                    _ => problem,
                })
            }
        }
    }

    /// Checks that the caller may list the bookings of `owner`.
    ///
    /// # Errors
    /// `forbidden`.
    pub(super) fn check_owner(self, caller: &Caller, owner: AccountId) -> Result<(), Problem> {
        if self == Self::Staff || caller.account_id == owner {
            return Ok(());
        }
        Err(Problem::new(
            Kind::Forbidden,
            "You can only see your own bookings.",
        ))
    }

    /// Returns those of `bookings` that the caller may reach.
    ///
    /// # Errors
    /// `forbidden` when the caller's roles reach none.
    pub(super) async fn filter(
        self,
        state: &AppState,
        caller: &Caller,
        bookings: Vec<BookingView>,
    ) -> Result<Vec<BookingView>, Problem> {
        if self == Self::Owner {
            return Ok(bookings);
        }
        let ids: Vec<_> = bookings.iter().map(|booking| booking.event_id).collect();
        let db = &state.ctx.db;
        let reached = caller.reachable_events(db, &ids, &EVERYWHERE).await?;
        let is_reached = |booking: &BookingView| reached.contains(&booking.event_id);
        Ok(bookings.into_iter().filter(is_reached).collect())
    }

    /// Publishes an audit-log entry for staff who read `subject`, before the response is sent.
    /// (Changes by staff are logged by the booking worker, in the transaction that makes them.)
    ///
    /// # Errors
    /// `overloaded` when the entry can't be published.
    pub(super) async fn audit_read(
        self,
        state: &AppState,
        caller: &Caller,
        subject: impl FnOnce() -> String,
    ) -> Result<(), Problem> {
        if self == Self::Owner {
            return Ok(());
        }
        let (actor, now) = (caller.account_id, state.ctx.clock.now());
        let note = AuditNoted::new(actor, "booking.read", subject(), json!({}), now);
        let broker = &state.ctx.broker;
        let published = broker.publish(Exchange::Events, AuditNoted::NAME, &note, note.id);
        published.await.map_err(|error| Problem::overloaded(&error))
    }
}
