//! Integration tests of box-office against PostgreSQL, Redis and RabbitMQ.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod accounts;
mod app;
mod audit;
mod availability;
mod confirm;
mod document;
mod events;
mod pages;
mod refreshes;
mod repeats;
mod sales;
mod search;
mod sign_in;
mod storable;
mod unknown_fields;
mod worker;
