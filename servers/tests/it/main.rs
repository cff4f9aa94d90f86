//! The servers do what the demo and the tests build on. Every test boots real servers.

#[cfg(test)]
mod commands;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod scratch;
