//! SQL: admission's own tables, and the views that others offer.

pub(crate) mod accounts;
pub(crate) mod bookings;
pub(crate) mod ended;
pub(crate) mod gate;
pub(crate) mod reading;
pub(crate) mod refused;
pub(crate) mod requests;
pub(crate) mod sales;
pub(crate) mod stock;

use std::error::Error;

/// A value in the database that the program does not know.
fn unreadable(error: impl Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

/// A word in the database that the program does not know.
#[derive(Debug, thiserror::Error)]
#[error("the database has a word that is not known: {0}")]
struct UnknownWord(String);

fn word<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, sqlx::Error> {
    parse(text).ok_or_else(|| unreadable(UnknownWord(text.to_owned())))
}
