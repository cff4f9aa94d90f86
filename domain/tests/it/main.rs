//! What the program says about money, against Stripe's documentation and against the pages.

#![expect(clippy::unwrap_used, reason = "a test's own steps")]

mod currencies;
mod rules;
