//! The subcommands and their shared parts.

pub(crate) mod bare;
pub(crate) mod bots;
pub(crate) mod faults;
pub(crate) mod joins;
mod load;
mod machine;
pub(crate) mod opening;
pub(crate) mod passes;
pub(crate) mod payments;
pub(crate) mod polls;
pub(crate) mod reads;
mod rounds;
pub(crate) mod sell_out;
pub(crate) mod simulate;
pub(crate) mod streams;
mod subject;
mod until;
mod wire;

/// Prints a line of a command's output.
#[expect(clippy::print_stdout, reason = "the output of a command")]
fn say(text: impl std::fmt::Display) {
    println!("{text}");
}
