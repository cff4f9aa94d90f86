//! Stripe's error envelope.

use serde_json::{Map, Value, json};

/// Stripe's `error.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorType {
    Api,
    Card,
    Idempotency,
    InvalidRequest,
}

impl ErrorType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api_error",
            Self::Card => "card_error",
            Self::Idempotency => "idempotency_error",
            Self::InvalidRequest => "invalid_request_error",
        }
    }
}

/// An error response.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    kind: ErrorType,
    message: String,
    details: Map<String, Value>,
    /// The endpoint began to execute. Only then does Stripe store the response under the request's
    /// idempotency key.
    pub(crate) executed: bool,
    /// Value of `Stripe-Should-Retry`, where Stripe sends it.
    pub(crate) should_retry: Option<bool>,
}

impl Refusal {
    fn new(status: u16, kind: ErrorType, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            message: message.into(),
            details: Map::new(),
            executed: false,
            should_retry: None,
        }
    }

    /// A missing or invalid parameter.
    pub(crate) fn parameter(code: &str, param: &str, message: impl Into<String>) -> Self {
        Self::new(400, ErrorType::InvalidRequest, message)
            .code(code)
            .with("param", json!(param))
    }

    /// A parameter outside its enumeration; such errors have no code.
    pub(crate) fn invalid(param: &str, message: impl Into<String>) -> Self {
        Self::new(400, ErrorType::InvalidRequest, message).with("param", json!(param))
    }

    /// An object whose state does not allow the operation.
    pub(crate) fn unexpected_state(message: impl Into<String>, payment_intent: Value) -> Self {
        Self::executed(400, ErrorType::InvalidRequest, message)
            .code("payment_intent_unexpected_state")
            .with("payment_intent", payment_intent)
    }

    /// An error raised while the endpoint was executing.
    pub(crate) fn executed(status: u16, kind: ErrorType, message: impl Into<String>) -> Self {
        Self {
            executed: true,
            ..Self::new(status, kind, message)
        }
    }

    pub(crate) fn missing(kind: &str, id: &str, param: &str) -> Self {
        Self::new(
            404,
            ErrorType::InvalidRequest,
            format!("No such {kind}: '{id}'"),
        )
        .code("resource_missing")
        .with("param", json!(param))
    }

    /// A parameter that names a missing object.
    pub(crate) fn missing_named(kind: &str, id: &str, param: &str) -> Self {
        let message = format!("No such {kind}: '{id}'");
        Self::parameter("resource_missing", param, message)
    }

    pub(crate) fn unknown_url(method: &str, path: &str) -> Self {
        let message = format!("Unrecognized request URL ({method}: {path}).");
        Self::new(404, ErrorType::InvalidRequest, message)
    }

    pub(crate) fn malformed(message: impl Into<String>) -> Self {
        Self::new(400, ErrorType::InvalidRequest, message)
    }

    pub(crate) fn no_key() -> Self {
        let message = "You did not provide an API key. Provide it in the Authorization header, \
                       using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').";
        Self::new(401, ErrorType::InvalidRequest, message)
    }

    pub(crate) fn bad_key(key: &str) -> Self {
        let shown: String = key.chars().take(8).collect();
        let message = format!("Invalid API Key provided: {shown}****");
        Self::new(401, ErrorType::InvalidRequest, message)
    }

    pub(crate) fn secret_key_required() -> Self {
        let message = "This API call cannot be made with a publishable API key. \
                       Please use a secret API key.";
        Self::new(403, ErrorType::InvalidRequest, message).code("secret_key_required")
    }

    pub(crate) fn wrong_client_secret() -> Self {
        let message = "The client_secret provided does not match any associated PaymentIntent \
                       on this account.";
        Self::new(400, ErrorType::InvalidRequest, message)
            .code("payment_intent_invalid_parameter")
            .with("param", json!("client_secret"))
    }

    pub(crate) fn rate_limit() -> Self {
        let message = "Too many requests hit the API too quickly. We recommend an exponential \
                       backoff of your requests.";
        Self::new(429, ErrorType::InvalidRequest, message).code("rate_limit")
    }

    /// An object locked by another request.
    pub(crate) fn locked() -> Self {
        let message = "This object cannot be accessed right now because another API request or \
                       Stripe process is currently accessing it.";
        Self {
            should_retry: Some(true),
            ..Self::new(429, ErrorType::InvalidRequest, message).code("lock_timeout")
        }
    }

    pub(crate) fn server_error() -> Self {
        let message = "An unknown error occurred. This fault was asked for.";
        Self::executed(500, ErrorType::Api, message)
    }

    pub(crate) fn asked_for(status: u16) -> Self {
        let message = "This refusal was asked for.";
        let refusal = Self::new(status, ErrorType::InvalidRequest, message);
        match status {
            404 => refusal.code("resource_missing"),
            _ => refusal,
        }
    }

    pub(crate) fn key_in_use(key: &str) -> Self {
        let message = format!(
            "There is currently another in-progress request using this Idempotent Key ({key})."
        );
        Self {
            should_retry: Some(true),
            ..Self::new(409, ErrorType::Idempotency, message).code("idempotency_key_in_use")
        }
    }

    pub(crate) fn key_reused(key: &str) -> Self {
        let message = format!(
            "Keys for idempotent requests can only be used with the same parameters they were \
             first used with. Try using a key other than '{key}' if you meant to execute a \
             different request."
        );
        Self::new(400, ErrorType::Idempotency, message)
    }

    pub(crate) fn code(self, code: &str) -> Self {
        self.with("code", json!(code))
    }

    pub(crate) fn with(mut self, field: &str, value: Value) -> Self {
        self.details.insert(field.to_owned(), value);
        self
    }

    /// Returns the response body.
    pub(crate) fn body(&self) -> Value {
        let mut error = self.details.clone();
        error.insert("type".to_owned(), json!(self.kind.as_str()));
        error.insert("message".to_owned(), json!(self.message));
        json!({ "error": error })
    }
}
