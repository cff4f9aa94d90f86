//! The environment of Onsale in the demo, in tests and under load: a simulated buyer, and stand-ins
//! for Stripe, a mail server and an SMS provider, with fault injection.

// Each of Stripe's objects is one `json!`, which recurses once per field.
#![recursion_limit = "256"]

pub mod buyer;
pub mod challenge;
pub mod faults;
mod html;
pub mod inbox;
mod listen;
pub mod mail;
pub mod opening;
pub mod simulate;
pub mod sms;
pub mod stripe;
pub mod tls;

pub use inbox::Inbox;
