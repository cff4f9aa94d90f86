//! What the notifier promises, shown on real servers.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod confirmations;
mod events;
mod failures;
mod keeping;
mod letters;
mod once;
mod priorities;
mod reminders;
mod staff;
mod stage;
mod texts;
mod transfers;
mod upgrades;
