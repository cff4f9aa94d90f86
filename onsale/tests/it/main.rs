//! The whole system: real processes, real servers, simulated buyers.

mod alarm;
mod answers;
mod audit;
mod caddy;
mod circles;
mod commands;
mod crash;
mod crowd;
mod demo;
mod dependencies;
mod description;
mod gateway;
mod guard;
mod guides;
mod nginx;
mod operator;
mod outage;
mod owners;
mod pages;
mod queries;
mod readme;
mod system;
