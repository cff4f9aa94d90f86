//! SQL: admission's own tables, and the public views of other services.

pub(crate) mod accounts;
pub(crate) mod bookings;
pub(crate) mod ended;
pub(crate) mod gate;
pub(crate) mod position;
pub(crate) mod requests;
pub(crate) mod revocations;
pub(crate) mod sales;
pub(crate) mod stock;

use std::error::Error;

/// Wraps the error of a stored value that can't be decoded.
fn unreadable(error: impl Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}

/// A stored enum value that this version does not know.
#[derive(Debug, thiserror::Error)]
#[error("unknown value in the database: {0}")]
struct UnknownWord(String);

fn word<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, sqlx::Error> {
    parse(text).ok_or_else(|| unreadable(UnknownWord(text.to_owned())))
}
