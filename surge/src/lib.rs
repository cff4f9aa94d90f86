//! What surrounds Onsale in the demo, in tests and under load: a simulated buyer, and stand-ins
//! for Stripe, for a mail server and for an SMS provider, each able to fail on demand.

// Stripe's objects are written as one `json!` each, which recurses once per field.
#![recursion_limit = "256"]

pub mod buyer;
pub mod challenge;
pub mod faults;
mod html;
pub mod inbox;
mod listen;
pub mod mail;
pub mod simulate;
pub mod sms;
pub mod stripe;
pub mod tls;

pub use inbox::Inbox;
