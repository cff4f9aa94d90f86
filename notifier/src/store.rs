//! The tables of schema `notifier`.

pub(crate) mod bookings;
pub(crate) mod directory;
pub(crate) mod holders;
pub(crate) mod notifications;
