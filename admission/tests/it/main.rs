//! Admission against real servers.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod bookings;
mod cost;
mod disturbed;
mod gate;
mod housekeeping;
mod leaders;
mod line;
mod lottery;
mod machine;
mod passes;
mod release;
mod settings;
mod shop;
mod sick;
mod silence;
mod standby;
mod start;
