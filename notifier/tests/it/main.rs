//! Integration tests of the notifier against PostgreSQL, RabbitMQ, and stand-ins for mail and SMS.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod confirmations;
mod events;
mod failures;
mod keeping;
mod letters;
mod limits;
mod once;
mod priorities;
mod reminders;
mod staff;
mod stage;
mod texts;
mod transfers;
mod upgrades;
