//! The whole system: real processes, real servers, simulated buyers.

mod crash;
mod crowd;
mod gateway;
mod guard;
mod nginx;
mod operator;
mod outage;
mod readme;
mod system;
