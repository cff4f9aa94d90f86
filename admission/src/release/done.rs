//! The outcomes of background tasks, which the next tick applies.

use std::collections::HashSet;
use std::sync::Arc;

use domain::EventId;
use domain::lottery::Order;
use domain::queue::Lottery;

use super::line::Line;
use super::quarantine::Failure;

/// Identifies one read of a line: an outcome with an outdated ticket is ignored.
pub(super) type Ticket = u64;

/// The state of a lottery, with the order once it is drawn.
pub(super) type Advanced = (Lottery, Option<Arc<Order>>);

/// The outcome of a task.
pub(super) enum Done {
    /// A line was read or ordered.
    Recalled(EventId, Ticket, Box<Line>),
    /// A line failed by itself.
    Failed(Ticket, Failure),
    /// Lines were not read because of an outage; they are retried.
    Unread(Vec<(EventId, Ticket)>),
    /// The ended sales that were checked, with the versions of their settings, and those of them
    /// at rest.
    AtRest(Vec<(EventId, i64)>, HashSet<EventId>),
    /// The state of a lottery, and the epoch under which it was requested.
    Lottery(EventId, i64, Result<Advanced, String>),
    /// A checkpoint finished: whether more moves are left to compact, or `None` when it failed.
    Compacted(EventId, Option<bool>),
}
