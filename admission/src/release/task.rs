//! The outcomes of background tasks, which the next tick applies.

use std::collections::HashSet;
use std::sync::Arc;

use domain::EventId;
use domain::lottery::Permutation;
use domain::queue::Lottery;

use super::line::Line;
use super::quarantine::SaleFailure;

/// Identifies one read of a line: an outcome with an outdated id is ignored.
pub(super) type TaskId = u64;

/// The state of a lottery, with the order once it is drawn.
pub(super) type Advanced = (Lottery, Option<Arc<Permutation>>);

/// The outcome of a task.
pub(super) enum TaskOutcome {
    /// A line was read or ordered.
    Loaded(EventId, TaskId, Box<Line>),
    /// A line failed by itself.
    Failed(TaskId, SaleFailure),
    /// Lines were not read because of an outage; they are retried.
    NotLoaded(Vec<(EventId, TaskId)>),
    /// The ended sales that were checked, with the versions of their settings, and those of them
    /// at rest.
    AtRest(Vec<(EventId, i64)>, HashSet<EventId>),
    /// The state of a lottery, and the epoch under which it was requested.
    Lottery(EventId, i64, Result<Advanced, String>),
    /// A checkpoint finished: whether more moves are left to compact, or `None` when it failed.
    Compacted(EventId, Option<bool>),
}
