//! RabbitMQ: topology, publishing with confirms, and consumers that rebuild themselves.
//!
//! lapin's own recovery is not used. It restores a connection but not a channel that the server
//! closed, and leaves publishes pending meanwhile. Here every connection and channel is replaced
//! as soon as it is found broken, and every wait has a limit.

mod broker;
mod confirms;
mod consumed;
mod consumer;
mod declared;
mod delivery;
mod error;
mod link;
mod publisher;
mod topology;

pub mod dead_letters;

pub use broker::Broker;
pub use consumer::{BatchHandler, Handler, Settings, consume, consume_batches};
pub use delivery::{Delivery, ParseError, Verdict, backoff};
pub use error::{BrokerError, PublishError};
pub use publisher::Outgoing;
pub use topology::{Exchange, QueueSpec, RETRY_DELAYS};
