//! The waiting room against real servers.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod challenge;
mod ended;
mod hall;
mod join;
mod me;
mod refusing_redis;
mod shared;
