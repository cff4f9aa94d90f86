//! The whole system: real processes, real servers, simulated buyers.

mod crash;
mod guard;
mod operator;
mod readme;
mod system;
