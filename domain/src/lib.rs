//! The domain model: ids, money, the clock, state machines, message contracts and token claims. No
//! I/O and no async.

pub mod account;
pub mod ahead;
pub mod booking;
pub mod clock;
pub mod event;
pub mod gate;
pub mod hex;
pub mod ids;
pub mod limits;
pub mod line;
pub mod lottery;
pub mod message;
pub mod money;
pub mod payment;
pub mod queue;
pub mod release;
pub mod sale;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod text;
pub mod token;

pub use ids::{
    AccountId, BookingId, EventId, FindingId, Number, OperationId, Place, RefundId, SeatId,
    SectionId,
};
pub use money::{Currency, Money, Wire};
