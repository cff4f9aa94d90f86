//! Money in the program, in Stripe's documentation and on the pages agree.

#![expect(clippy::unwrap_used, reason = "a test's own steps")]

mod currencies;
mod rules;
