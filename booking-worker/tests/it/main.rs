//! The booking worker on real servers: PostgreSQL and RabbitMQ.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod booking;
mod database;
mod door;
mod interleavings;
mod invariants;
mod inventory;
mod machine;
mod races;
mod shop;
mod transfer;
mod upgrades;
mod witness;
