//! The commands, and what they share.

pub(crate) mod bare;
pub(crate) mod bots;
pub(crate) mod joins;
mod load;
mod machine;
pub(crate) mod passes;
pub(crate) mod payments;
pub(crate) mod polls;
pub(crate) mod reads;
mod rounds;
pub(crate) mod sell_out;
pub(crate) mod simulate;
pub(crate) mod streams;
mod subject;
mod wire;

/// Tells the person who ran the command.
#[expect(clippy::print_stdout, reason = "the output of a command")]
fn say(text: impl std::fmt::Display) {
    println!("{text}");
}
