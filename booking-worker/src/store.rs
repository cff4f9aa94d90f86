//! Statements on schema `booking`, each on many rows at once.
//!
//! Lock order: bookings, account limits, seats, sections (the last by the trigger that counts
//! seats), and within a table by id.

pub(crate) mod accounts;
pub(crate) mod bookings;
pub(crate) mod inventory;
pub(crate) mod lost;
pub(crate) mod market;
pub(crate) mod seats;
pub(crate) mod tickets;
pub(crate) mod transfers;
