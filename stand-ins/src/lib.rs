//! Stand-ins for what costs money or reaches people: Stripe, the mail server and the SMS provider,
//! with fault injection. The demo, tests and load run against them, and an installation only where
//! asked for by name.

// Each of Stripe's objects is one `json!`, which recurses once per field.
#![recursion_limit = "256"]

pub mod faults;
mod html;
pub mod inbox;
mod listen;
pub mod mail;
pub mod sms;
pub mod stripe;
pub mod tls;

pub use inbox::Inbox;
