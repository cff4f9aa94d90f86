//! Errors as callers see them: RFC 9457 problems with a stable `type`.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::causes::with_causes;
use crate::telemetry::{Throttle, TraceContext};

/// The prefix of every `type`.
const TYPE_BASE: &str = "https://onsale.dev/problems/";
/// The default of `Retry-After`.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The kinds of problems, as listed in `docs/API.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The request can't be read.
    Malformed,
    /// It can be read, but a value is out of its bounds.
    Invalid,
    /// The body is too long.
    TooLarge,
    /// The body is not JSON.
    UnsupportedMediaType,
    /// The access token is missing or not valid.
    SignedOut,
    /// The address or the password is wrong.
    WrongCredentials,
    /// The role or the ownership does not allow it.
    Forbidden,
    /// No such thing.
    NotFound,
    /// The path exists, but not with this method.
    MethodNotAllowed,
    /// The state does not allow it.
    Conflict,
    /// An account with this address exists.
    EmailTaken,
    /// Same `Idempotency-Key`, other request.
    IdempotencyKeyReused,
    /// The first request with this key is still running.
    IdempotencyKeyInProgress,
    /// The request lacks a queue token.
    QueueTokenRequired,
    /// The queue token does not verify.
    QueueTokenInvalid,
    /// Joining this sale takes a solved challenge.
    ChallengeRequired,
    /// The challenge's solution is wrong, late, used, or another's.
    ChallengeInvalid,
    /// The sale takes nobody into its queue.
    QueueClosed,
    /// The place was not called yet.
    NotCalled,
    /// The claim window went by.
    PlaceMissed,
    /// The holder left the queue.
    PlaceLeft,
    /// The rate or the cap is used up this moment.
    AdmissionFull,
    /// The request lacks a pass.
    PassRequired,
    /// The pass does not verify, or was revoked.
    PassInvalid,
    /// No seats were held, for the reason in `reason`.
    BookingRejected,
    /// The webhook's signature does not verify.
    WebhookSignature,
    /// A limit of the account or the address.
    RateLimited,
    /// A place was polled earlier than its `poll_after_ms`.
    TooEarly,
    /// A queue is full, or a dependency did not answer in time.
    Overloaded,
    /// A defect.
    Internal,
}

impl Kind {
    /// Name, status and title.
    const fn facts(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::Malformed => (
                "malformed",
                StatusCode::BAD_REQUEST,
                "The request can't be understood",
            ),
            Self::Invalid => (
                "invalid",
                StatusCode::UNPROCESSABLE_ENTITY,
                "A value is out of bounds",
            ),
            Self::TooLarge => (
                "too-large",
                StatusCode::PAYLOAD_TOO_LARGE,
                "The body is too large",
            ),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "The body must be application/json",
            ),
            Self::SignedOut => (
                "signed-out",
                StatusCode::UNAUTHORIZED,
                "You are not signed in",
            ),
            Self::WrongCredentials => (
                "wrong-credentials",
                StatusCode::UNAUTHORIZED,
                "The address or the password is wrong",
            ),
            Self::Forbidden => ("forbidden", StatusCode::FORBIDDEN, "You may not do this"),
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "There is no such thing"),
            Self::MethodNotAllowed => (
                "method-not-allowed",
                StatusCode::METHOD_NOT_ALLOWED,
                "This path does not take this method",
            ),
            Self::Conflict => (
                "conflict",
                StatusCode::CONFLICT,
                "The state does not allow it",
            ),
            Self::EmailTaken => (
                "email-taken",
                StatusCode::CONFLICT,
                "An account with this address exists",
            ),
            Self::IdempotencyKeyReused => (
                "idempotency-key-reused",
                StatusCode::UNPROCESSABLE_ENTITY,
                "This Idempotency-Key was used for another request",
            ),
            Self::IdempotencyKeyInProgress => (
                "idempotency-key-in-progress",
                StatusCode::CONFLICT,
                "The first request with this Idempotency-Key is still running",
            ),
            Self::QueueTokenRequired => (
                "queue-token-required",
                StatusCode::UNAUTHORIZED,
                "A queue token is needed",
            ),
            Self::QueueTokenInvalid => (
                "queue-token-invalid",
                StatusCode::UNAUTHORIZED,
                "The queue token is not valid",
            ),
            Self::ChallengeRequired => (
                "challenge-required",
                StatusCode::FORBIDDEN,
                "A solved challenge is needed",
            ),
            Self::ChallengeInvalid => (
                "challenge-invalid",
                StatusCode::FORBIDDEN,
                "The solution of the challenge is not valid",
            ),
            Self::QueueClosed => ("queue-closed", StatusCode::CONFLICT, "The queue is closed"),
            Self::NotCalled => (
                "not-called",
                StatusCode::CONFLICT,
                "It is not your turn yet",
            ),
            Self::PlaceMissed => ("place-missed", StatusCode::GONE, "Your turn went by"),
            Self::PlaceLeft => ("place-left", StatusCode::GONE, "You left the queue"),
            Self::AdmissionFull => (
                "admission-full",
                StatusCode::TOO_MANY_REQUESTS,
                "No room this moment",
            ),
            Self::PassRequired => ("pass-required", StatusCode::FORBIDDEN, "A pass is needed"),
            Self::PassInvalid => (
                "pass-invalid",
                StatusCode::FORBIDDEN,
                "The pass is not valid",
            ),
            Self::BookingRejected => (
                "booking-rejected",
                StatusCode::CONFLICT,
                "No seats could be held",
            ),
            Self::WebhookSignature => (
                "webhook-signature",
                StatusCode::BAD_REQUEST,
                "The signature is not valid",
            ),
            Self::RateLimited => (
                "rate-limited",
                StatusCode::TOO_MANY_REQUESTS,
                "Too many requests",
            ),
            Self::TooEarly => (
                "too-early",
                StatusCode::TOO_MANY_REQUESTS,
                "Asked again too early",
            ),
            Self::Overloaded => (
                "overloaded",
                StatusCode::SERVICE_UNAVAILABLE,
                "Too busy this moment",
            ),
            Self::Internal => (
                "internal",
                StatusCode::INTERNAL_SERVER_ERROR,
                "Something broke on our side",
            ),
        }
    }

    /// The name: the last segment of `type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.facts().0
    }

    /// The HTTP status.
    #[must_use]
    pub const fn status(self) -> StatusCode {
        self.facts().1
    }
}

/// An error response. Handlers return it as their `Err`.
#[derive(Debug, Clone)]
pub struct Problem {
    kind: Kind,
    detail: String,
    extensions: Map<String, Value>,
    retry_after: Option<Duration>,
}

impl Problem {
    /// Creates a problem; `detail` is a sentence for the caller: what happened and what to do.
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            extensions: Map::new(),
            retry_after: None,
        }
    }

    /// Adds a member, such as `field` or `reason`.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).unwrap_or(Value::Null);
        self.extensions.insert(key.to_owned(), value);
        self
    }

    /// Adds members, replacing those of the same name.
    #[must_use]
    pub fn with_all(mut self, members: Map<String, Value>) -> Self {
        self.extensions.extend(members);
        self
    }

    /// Sets `Retry-After`, rounded up to whole seconds, at least 1.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// Creates the problem of a defect. Logs `error` with its sources; the caller sees only the
    /// trace id.
    #[must_use]
    pub fn internal(error: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = with_causes(error), "request failed");
        Self::defect()
    }

    /// Creates the problem of a defect that was already logged.
    #[must_use]
    pub fn defect() -> Self {
        let problem = Self::new(Kind::Internal, "Try again later; the log has the cause.");
        match TraceContext::current() {
            Some(trace) => problem.with("trace_id", trace.trace_id()),
            None => problem,
        }
    }

    /// Creates the problem of a dependency that did not answer in time. Logs `error` with its
    /// sources.
    #[must_use]
    pub fn overloaded(error: &(dyn Error + 'static)) -> Self {
        static LOGGED: Throttle = Throttle::new();
        let cause = with_causes(error);
        if let Some(suppressed) = LOGGED.permit(&cause) {
            tracing::warn!(
                error = cause,
                suppressed,
                "a server behind this one did not answer"
            );
        }
        Self::new(
            Kind::Overloaded,
            "The service is busy; try again in a moment.",
        )
    }

    /// The kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The sentence for the caller.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The JSON of the answer.
    pub(crate) fn body(&self) -> Vec<u8> {
        let (name, status, title) = self.kind.facts();
        let mut members = self.extensions.clone();
        members.insert("type".into(), format!("{TYPE_BASE}{name}").into());
        members.insert("title".into(), title.into());
        members.insert("status".into(), status.as_u16().into());
        members.insert("detail".into(), self.detail.as_str().into());
        serde_json::to_vec(&members).expect("a JSON map of JSON values serializes")
    }

    fn retry_after_seconds(&self) -> Option<u64> {
        let wait = match self.kind.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                self.retry_after.unwrap_or(DEFAULT_RETRY_AFTER)
            }
            _ => self.retry_after?,
        };
        let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Some(whole.max(1))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.detail)
    }
}

impl Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.kind.status(), self.body()).into_response();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.kind == Kind::SignedOut {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An unavailable database is `overloaded`; any other failure of a query is a defect.
impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        crate::pg::observe(&error);
        if crate::pg::is_busy(&error) {
            Self::overloaded(&error)
        } else {
            Self::internal(&error)
        }
    }
}

/// An unavailable Redis is `overloaded`; any other failure of a command is a defect.
impl From<::redis::RedisError> for Problem {
    fn from(error: ::redis::RedisError) -> Self {
        if crate::redis::is_unavailable(&error) {
            Self::overloaded(&error)
        } else {
            Self::internal(&error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(problem: &Problem) -> Value {
        serde_json::from_slice(&problem.body()).unwrap()
    }

    #[test]
    fn a_problem_has_the_members_of_rfc_9457_and_its_own() {
        let problem = Problem::new(Kind::Invalid, "At least 1 ticket.").with("field", "tickets");
        assert_eq!(
            members(&problem),
            serde_json::json!({
                "type": "https://onsale.dev/problems/invalid",
                "title": "A value is out of bounds",
                "status": 422,
                "detail": "At least 1 ticket.",
                "field": "tickets",
            })
        );
        let response = problem.into_response();
        assert_eq!(response.status(), 422);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
        assert!(!response.headers().contains_key("retry-after"));
    }

    #[test]
    fn an_extension_cannot_replace_the_status() {
        let problem = Problem::new(Kind::Conflict, "No.").with("status", 200);
        assert_eq!(members(&problem)["status"], 409);
    }

    #[test]
    fn every_429_and_503_says_when_to_come_back() {
        for kind in [Kind::RateLimited, Kind::AdmissionFull, Kind::Overloaded] {
            let response = Problem::new(kind, "Later.").into_response();
            assert_eq!(response.headers()["retry-after"], "1");
        }
        let wait = Duration::from_millis(2_001);
        let response = Problem::new(Kind::Overloaded, "Later.")
            .retry_after(wait)
            .into_response();
        assert_eq!(response.headers()["retry-after"], "3");
    }

    #[test]
    fn a_server_that_is_away_for_thousands_of_requests_is_logged_once() {
        let begun = std::time::Instant::now();
        let lines = crate::telemetry::captured::warnings(|| {
            for _ in 0..5_000 {
                let cause = std::io::Error::other("the server of this test is away");
                let problem = Problem::overloaded(&cause);
                assert_eq!(problem.kind(), Kind::Overloaded);
            }
            let other = std::io::Error::other("another server of this test is away");
            let _news = Problem::overloaded(&other);
        });
        // One of each, and again after ten seconds on a machine that is so slow.
        let most = 2 + usize::try_from(begun.elapsed().as_secs() / 10).unwrap();
        assert!((2..=most).contains(&lines.len()), "{lines:?}");
        assert!(lines[0].contains("the server of this test is away"));
        assert!(lines[lines.len() - 1].contains("another server of this test is away"));
    }

    #[test]
    fn a_defect_does_not_show_its_cause() {
        let cause = std::io::Error::other("password=hunter2");
        assert!(
            !members(&Problem::internal(&cause))
                .to_string()
                .contains("hunter2")
        );
    }
}
