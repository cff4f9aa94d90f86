//! The foundation of every service: start-up and shutdown, configuration, telemetry, HTTP, tokens,
//! limits, Postgres transactions, the outbox, RabbitMQ and Redis.

pub mod amqp;
pub mod auth;
pub mod backoff;
pub mod batcher;
pub mod causes;
pub mod config;
pub mod egress;
mod files;
pub mod health;
pub mod http;
pub mod idempotency;
pub mod leased;
pub mod limits;
pub mod line;
pub mod outbox;
pub mod pg;
pub mod problem;
pub mod redis;
pub mod refusal;
pub mod service;
pub mod shutdown;
pub mod sync;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tls;
pub mod tokens;
pub mod topology;
