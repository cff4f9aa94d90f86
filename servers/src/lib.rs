//! Private PostgreSQL, Redis and RabbitMQ servers for the demo and the tests.
//!
//! A private server listens on 127.0.0.1 only, on ports of its own, with all its files in one
//! folder; servers that were already on the machine are never touched. [`Postgres`], [`Redis`] and
//! [`RabbitMq`] each run one, and can be killed and restarted as a test needs it. [`Environment`]
//! finds or makes all three, as `./dev` does.
//!
//! Everything here blocks; call it through `spawn_blocking` from async code.

mod binaries;
mod connection;
mod docker;
mod environment;
mod home;
mod install;
mod port;
mod postgres;
mod process;
mod progress;
mod rabbitmq;
mod random;
mod redis;
mod server;
mod set;
mod urls;
mod wait;

pub use environment::{Environment, Lease};
pub use install::install_tools;
pub use postgres::erase;
pub use progress::say;
pub use server::Server;
pub use urls::Urls;

/// A private PostgreSQL; its user and its database are both called `onsale`.
pub type Postgres = Server<postgres::PostgresKind>;
/// A private Redis.
pub type Redis = Server<redis::RedisKind>;
/// A private RabbitMQ node.
pub type RabbitMq = Server<rabbitmq::RabbitMqKind>;
