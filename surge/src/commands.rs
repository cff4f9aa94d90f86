//! The commands, and what they share.

pub(crate) mod bare;
pub(crate) mod joins;
mod load;
mod machine;
pub(crate) mod polls;
mod rounds;
pub(crate) mod simulate;
pub(crate) mod streams;
mod subject;
mod wire;

/// Tells the person who ran the command.
#[expect(clippy::print_stdout, reason = "the output of a command")]
fn say(text: impl std::fmt::Display) {
    println!("{text}");
}
