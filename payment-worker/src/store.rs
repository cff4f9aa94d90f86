//! The worker's tables. Every function is one statement; those that change a state are guarded, so
//! that repeating or reordering them does no harm.

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
