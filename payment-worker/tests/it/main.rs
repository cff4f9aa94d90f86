//! The payment worker on real PostgreSQL and RabbitMQ, against the Stripe stand-in over HTTP. The
//! stand-in's ledger is the independent witness of what was charged.

#![expect(clippy::unwrap_used, reason = "a test that can't go on has failed")]

mod backlog;
mod cancelling;
mod faults;
mod paying;
mod refunds;
mod shop;
mod webhooks;
