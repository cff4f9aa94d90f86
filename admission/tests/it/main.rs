//! Admission against real servers.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

mod bookings;
mod gate;
mod housekeeping;
mod line;
mod lottery;
mod passes;
mod release;
mod shop;
mod silence;
