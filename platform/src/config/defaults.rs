//! The defaults of a group of options, as its attributes state them.

use clap::{Args, Command};

/// Parses `flags` alone and takes every other value from the defaults of `C`, never from the
/// environment: for `Default`, tests and programs that embed services.
///
/// # Panics
/// When `flags` are not valid, or lack one that has no default.
#[must_use]
pub fn defaults<C: Args>(flags: &[&str]) -> C {
    let command = C::augment_args(Command::new("defaults").no_binary_name(true))
        .mut_args(|argument| argument.env(None::<&str>));
    command
        .try_get_matches_from(flags)
        .and_then(|matches| C::from_arg_matches(&matches))
        .unwrap_or_else(|error| panic!("{error}"))
}
