//! SQL of the schema `notifier`.

pub(crate) mod announcements;
pub(crate) mod bookings;
pub(crate) mod directory;
pub(crate) mod holders;
pub(crate) mod mails;
pub(crate) mod notifications;
pub(crate) mod pruning;
pub(crate) mod queue;
