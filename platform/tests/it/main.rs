//! The platform's promises, tested on real servers.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails")]

mod amqp;
mod bouncer;
mod files;
mod http;
mod idempotency;
mod limits;
mod line;
mod outbox;
mod pg;
mod redis;
mod server;
mod service;
mod tls;
mod tokens;
