//! Bounds on input.

/// Most seats one event may have.
pub const MAX_SEATS_PER_EVENT: u32 = 50_000;
/// Most sections one event may have.
pub const MAX_SECTIONS_PER_EVENT: usize = 200;
/// Most tickets of one booking request.
pub const MAX_TICKETS_PER_BOOKING: u32 = 20;
/// Most calls per minute an operator may set.
pub const MAX_RATE_PER_MINUTE: u32 = 600_000;
/// Most shoppers at once an operator may allow.
pub const MAX_SHOPPER_CAP: u32 = 1_000_000;
/// Largest request body, in bytes.
pub const MAX_BODY_BYTES: usize = 64 * 1024;
