//! Statements on schema `payment`, one per function. Those that change a state are guarded, so that
//! a repeat or another order does no harm.

pub(crate) mod breaker;
pub(crate) mod cancellations;
pub(crate) mod chores;
pub(crate) mod customers;
pub(crate) mod events;
pub(crate) mod findings;
pub(crate) mod inbox;
pub(crate) mod operations;
pub(crate) mod payments;
pub(crate) mod policies;
pub(crate) mod refunds;
pub(crate) mod sweeps;
pub(crate) mod timeline;
