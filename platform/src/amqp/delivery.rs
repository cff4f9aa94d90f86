use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use domain::message::Message;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use uuid::Uuid;

use super::publisher::TRACEPARENT;
use crate::backoff::Backoff;
use crate::telemetry::TraceContext;

const ATTEMPT: &str = "onsale-attempt";
const REASON: &str = "onsale-reason";
const DIED_AT: &str = "onsale-died-at";
const DELIVERY_COUNT: &str = "x-delivery-count";
const DEATHS: &str = "x-death";

/// A message as delivered.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The [`Message::NAME`].
    pub name: String,
    /// The JSON.
    pub body: Bytes,
    /// The same for every copy of the same message.
    pub message_id: Uuid,
    /// From 1; incremented by every retry and every redelivery after a crash.
    pub attempt: u32,
    /// The trace it belongs to.
    pub trace: Option<TraceContext>,
}

/// The outcome of handling a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Acknowledge: done.
    Ack,
    /// Redeliver after a delay, rounded up to one of [`RETRY_DELAYS`](super::RETRY_DELAYS). Later
    /// messages overtake it.
    RetryAfter(Duration),
    /// Move to the dead queue, with the reason, for a person to look at.
    DeadLetter(String),
}

impl Verdict {
    /// Retries with exponential backoff.
    #[must_use]
    pub fn retry(delivery: &Delivery) -> Self {
        Self::RetryAfter(backoff(delivery.attempt))
    }

    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::RetryAfter(_) => "retry",
            Self::DeadLetter(_) => "dead_letter",
        }
    }
}

/// The exponential backoff after `attempt` (from 1): 250 ms, doubled each time, at most 5 minutes.
#[must_use]
pub fn backoff(attempt: u32) -> Duration {
    const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(300));
    BACKOFF.after(attempt)
}

/// The failure to parse a message.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// It is another message.
    #[error("expected {expected}, got {actual:?}")]
    Name {
        /// The name expected.
        expected: &'static str,
        /// The name it has.
        actual: String,
    },
    /// The body doesn't fit the name.
    #[error("the body of {name} can't be read")]
    Body {
        /// The name it has.
        name: &'static str,
        /// The error of the parser.
        source: serde_json::Error,
    },
}

impl From<ParseError> for Verdict {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::Name { .. } => Self::DeadLetter(error.to_string()),
            ParseError::Body { ref source, .. } => Self::DeadLetter(format!("{error}: {source}")),
        }
    }
}

impl Delivery {
    /// Parses the body.
    ///
    /// # Errors
    /// When it is another message or its body does not fit; [`Verdict::from`] the error
    /// dead-letters it.
    pub fn parse<M: Message>(&self) -> Result<M, ParseError> {
        if self.name != M::NAME {
            return Err(ParseError::Name {
                expected: M::NAME,
                actual: self.name.clone(),
            });
        }
        serde_json::from_slice(&self.body).map_err(|source| ParseError::Body {
            name: M::NAME,
            source,
        })
    }

    /// Converts a raw delivery. A missing id is derived from the body; a missing name is empty,
    /// which no handler knows.
    pub(super) fn from_lapin(properties: &BasicProperties, body: Vec<u8>) -> Self {
        let headers = properties.headers().as_ref();
        let retries = number(headers, ATTEMPT).unwrap_or(1);
        let redeliveries = number(headers, DELIVERY_COUNT).unwrap_or(0);
        let id = properties
            .message_id()
            .as_ref()
            .and_then(|id| id.as_str().parse().ok());
        Self {
            name: properties
                .kind()
                .as_ref()
                .map(|name| name.as_str().to_owned())
                .unwrap_or_default(),
            message_id: id.unwrap_or_else(|| Uuid::new_v5(&Uuid::NAMESPACE_OID, &body)),
            body: Bytes::from(body),
            attempt: retries.saturating_add(redeliveries),
            trace: text(headers, TRACEPARENT)
                .as_deref()
                .and_then(TraceContext::parse),
        }
    }

    /// The attempts of a dead letter, without the deliveries that only inspected it.
    pub(super) fn tried(properties: &BasicProperties) -> u32 {
        number(properties.headers().as_ref(), ATTEMPT).unwrap_or(1)
    }

    /// The properties of a copy that is to be attempt number `attempt`.
    pub(super) fn copy_properties(&self, attempt: u32) -> BasicProperties {
        let mut headers = FieldTable::default();
        headers.insert(ATTEMPT.into(), AMQPValue::LongLongInt(attempt.into()));
        if let Some(trace) = self.trace {
            headers.insert(
                TRACEPARENT.into(),
                AMQPValue::LongString(trace.to_traceparent().into()),
            );
        }
        BasicProperties::default()
            .with_type(self.name.as_str().into())
            .with_content_type("application/json".into())
            .with_headers(headers)
    }

    /// The properties of the copy that goes to the dead queue.
    pub(super) fn dead_properties(&self, reason: &str, now: DateTime<Utc>) -> BasicProperties {
        /// Headers share a frame of 128 KiB with the rest; a reason is a sentence.
        const MAX_REASON_CHARS: usize = 2_000;
        let reason: String = reason.chars().take(MAX_REASON_CHARS).collect();
        let properties = self.copy_properties(self.attempt);
        let mut headers = properties.headers().clone().unwrap_or_default();
        headers.insert(REASON.into(), AMQPValue::LongString(reason.into()));
        headers.insert(
            DIED_AT.into(),
            AMQPValue::LongString(now.to_rfc3339().into()),
        );
        properties.with_headers(headers)
    }
}

/// Returns the reason and the time of a dead-lettering, by us or by RabbitMQ.
pub(super) fn death(properties: &BasicProperties) -> (String, Option<DateTime<Utc>>) {
    let headers = properties.headers().as_ref();
    if let Some(reason) = text(headers, REASON) {
        let died_at = text(headers, DIED_AT)
            .and_then(|time| DateTime::parse_from_rfc3339(&time).ok())
            .map(|time| time.to_utc());
        return (reason, died_at);
    }
    let deaths = headers.and_then(|headers| headers.inner().get(DEATHS));
    let Some(AMQPValue::FieldArray(deaths)) = deaths else {
        return ("unknown".into(), None);
    };
    let Some(AMQPValue::FieldTable(latest)) = deaths.as_slice().first() else {
        return ("unknown".into(), None);
    };
    let died_at = match latest.inner().get("time") {
        Some(AMQPValue::Timestamp(seconds)) => i64::try_from(*seconds)
            .ok()
            .and_then(|seconds| DateTime::from_timestamp(seconds, 0)),
        _ => None,
    };
    let reason = match text(Some(latest), "reason").as_deref() {
        Some("delivery_limit") => "its consumers died with it too often".to_owned(),
        Some(word) => word.to_owned(),
        None => "unknown".to_owned(),
    };
    (reason, died_at)
}

fn number(headers: Option<&FieldTable>, key: &str) -> Option<u32> {
    let value = match headers?.inner().get(key)? {
        AMQPValue::LongLongInt(value) => *value,
        AMQPValue::LongInt(value) => i64::from(*value),
        AMQPValue::LongUInt(value) => i64::from(*value),
        AMQPValue::ShortShortUInt(value) => i64::from(*value),
        AMQPValue::ShortInt(value) => i64::from(*value),
        AMQPValue::ShortShortInt(value) => i64::from(*value),
        _ => return None,
    };
    u32::try_from(value).ok()
}

fn text(headers: Option<&FieldTable>, key: &str) -> Option<String> {
    match headers?.inner().get(key)? {
        AMQPValue::LongString(value) => {
            Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
        }
        AMQPValue::ShortString(value) => Some(value.as_str().to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use domain::BookingId;
    use domain::message::PaymentVoided;

    use super::*;

    fn delivery(name: &str, body: &str) -> Delivery {
        let properties = BasicProperties::default().with_type(name.into());
        Delivery::from_lapin(&properties, body.into())
    }

    #[test]
    fn a_message_is_read_only_by_its_own_name() {
        let body = r#"{"booking_id":"018f0000-0000-7000-8000-000000000000"}"#;
        let parsed: PaymentVoided = delivery("payment.voided.v1", body).parse().unwrap();
        assert_eq!(
            parsed.booking_id,
            BookingId("018f0000-0000-7000-8000-000000000000".parse().unwrap())
        );

        let error = delivery("payment.captured.v1", body)
            .parse::<PaymentVoided>()
            .unwrap_err();
        assert!(matches!(error, ParseError::Name { .. }));
    }

    #[test]
    fn what_cannot_be_read_is_put_aside_with_the_reason() {
        let error = delivery("payment.voided.v1", "{}")
            .parse::<PaymentVoided>()
            .unwrap_err();
        let Verdict::DeadLetter(reason) = Verdict::from(error) else {
            panic!("not put aside")
        };
        assert!(reason.contains("missing field `booking_id`"), "{reason}");
    }

    #[test]
    fn a_copy_keeps_the_trace_and_counts_the_attempt() {
        let trace = TraceContext::root();
        let original = Delivery {
            trace: Some(trace),
            ..delivery("x", "{}")
        };
        let copy = Delivery::from_lapin(&original.copy_properties(7), b"{}".to_vec());
        assert_eq!(
            (copy.attempt, copy.trace, copy.name.as_str()),
            (7, Some(trace), "x")
        );
    }

    #[test]
    fn waits_grow_up_to_a_bound() {
        assert_eq!(backoff(1), Duration::from_millis(250));
        assert_eq!(backoff(3), Duration::from_secs(1));
        assert_eq!(backoff(u32::MAX), Duration::from_secs(300));
    }
}
