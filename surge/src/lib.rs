//! The crowd: a simulated buyer, who does what the pages do, and a simulation of whole sales.

pub mod buyer;
pub mod challenge;
pub mod opening;
pub mod simulate;
