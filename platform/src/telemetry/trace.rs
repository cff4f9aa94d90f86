//! W3C trace context: one id that follows a booking through every process.

use std::fmt;

use domain::BookingId;
use domain::message::Message;
use tracing::{Dispatch, Span};
use tracing_subscriber::Registry;
use tracing_subscriber::registry::LookupSpan;

/// The position in a trace, as in a `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    sampled: bool,
}

/// A trace's id, in 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId(u128);

impl TraceContext {
    /// The beginning of a new trace.
    #[must_use]
    pub fn root() -> Self {
        Self {
            trace_id: rand::random_range(1..=u128::MAX),
            span_id: rand::random_range(1..=u64::MAX),
            sampled: true,
        }
    }

    /// A new span of the booking's trace, whose id is the booking's, so that either finds the other
    /// in any service's log.
    #[must_use]
    pub fn of_booking(booking: BookingId) -> Self {
        Self {
            trace_id: booking.0.as_u128(),
            ..Self::root()
        }
    }

    /// A new step of the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        Self {
            span_id: rand::random_range(1..=u64::MAX),
            ..self
        }
    }

    /// The context of the span this is called in, or of the nearest around it that has one.
    #[must_use]
    pub fn current() -> Option<Self> {
        Span::current()
            .with_subscriber(|(id, dispatch)| {
                let span = dispatch.downcast_ref::<Registry>()?.span(id)?;
                span.scope()
                    .find_map(|span| span.extensions().get::<Self>().copied())
            })
            .flatten()
    }

    /// Reads a `traceparent`; `None` when it is not one.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let version = hex_digits(parts.next()?, 2)?;
        let trace_id = u128::from_str_radix(hex_digits(parts.next()?, 32)?, 16).ok()?;
        let span_id = u64::from_str_radix(hex_digits(parts.next()?, 16)?, 16).ok()?;
        let flags = u8::from_str_radix(hex_digits(parts.next()?, 2)?, 16).ok()?;
        // A later version may add parts; version 00 has none, and ff is not one.
        let has_more = parts.next().is_some();
        if version == "ff" || (version == "00" && has_more) || trace_id == 0 || span_id == 0 {
            return None;
        }
        Some(Self {
            trace_id,
            span_id,
            sampled: flags & 1 == 1,
        })
    }

    /// The `traceparent` to send along.
    #[must_use]
    pub fn to_traceparent(&self) -> String {
        format!(
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id,
            self.span_id,
            u8::from(self.sampled)
        )
    }

    /// The trace's id.
    #[must_use]
    pub fn trace_id(&self) -> TraceId {
        TraceId(self.trace_id)
    }

    /// The trace that `message` belongs to: its booking's, or that of the span this is called in.
    pub(crate) fn of_message(message: &impl Message) -> Option<Self> {
        message
            .booking()
            .map(Self::of_booking)
            .or_else(Self::current)
    }

    /// Attaches this context to `span`, for [`TraceContext::current`] inside it.
    pub(crate) fn attach(self, span: &Span) {
        span.with_subscriber(|(id, dispatch): (_, &Dispatch)| {
            if let Some(span) = dispatch
                .downcast_ref::<Registry>()
                .and_then(|all| all.span(id))
            {
                span.extensions_mut().replace(self);
            }
        });
    }
}

/// The part, if it is `length` lower-case hexadecimal digits.
fn hex_digits(part: &str, length: usize) -> Option<&str> {
    let all_hex = part
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (part.len() == length && all_hex).then_some(part)
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl serde::Serialize for TraceId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A span for work that `parent` caused in another process, or that begins here. Everything
/// logged inside carries its `trace_id`.
#[must_use]
pub fn span_for(parent: Option<&TraceContext>, name: &'static str) -> Span {
    let context = parent.map_or_else(TraceContext::root, |parent| parent.child());
    // The highest level, so that no log filter takes the trace away.
    let span = tracing::error_span!(parent: None, "work", name, trace_id = %context.trace_id());
    context.attach(&span);
    span
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::telemetry::captured;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_survives_the_round_trip() {
        let context = TraceContext::parse(HEADER).unwrap();
        assert_eq!(context.to_traceparent(), HEADER);
        assert_eq!(
            context.trace_id().to_string(),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
    }

    #[test]
    fn what_is_not_a_traceparent_is_ignored() {
        for header in [
            "",
            "00",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(header), None, "{header}");
        }
    }

    #[test]
    fn work_keeps_the_trace_of_its_cause_in_nested_spans() {
        let _another = captured::another();
        let _guard = tracing::subscriber::set_default(
            Registry::default().with(tracing_subscriber::filter::LevelFilter::ERROR),
        );
        let parent = TraceContext::parse(HEADER).unwrap();
        let span = span_for(Some(&parent), "test");
        let _outer = span.enter();
        let inner = tracing::error_span!("inner");
        let _inner = inner.enter();
        let current = TraceContext::current().unwrap();
        assert_eq!(current.trace_id(), parent.trace_id());
        assert_ne!(current.span_id, parent.span_id);
    }

    #[test]
    fn outside_of_any_span_there_is_no_trace() {
        let _guard = tracing::subscriber::set_default(Registry::default());
        assert_eq!(TraceContext::current(), None);
    }
}
