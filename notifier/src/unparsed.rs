//! Forward compatibility: messages of a later version, which a node that is not upgraded yet can't
//! parse.

use std::fmt::Display;

use platform::amqp::{Delivery, Verdict};

/// Retries a message that this version can't parse, so that a later version may take it during an
/// upgrade; it is dead-lettered once its retries are exhausted.
pub(crate) fn retry_unparsed(delivery: &Delivery, why: &impl Display) -> Verdict {
    tracing::error!(message = delivery.name, %why, "failed to parse message, retrying");
    Verdict::retry(delivery)
}
