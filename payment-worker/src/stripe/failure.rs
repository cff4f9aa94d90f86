use std::time::Duration;

use stripe_shared::{ApiErrorsCode, ApiErrorsType};

use super::client::ClientError;

/// Why a call to Stripe returned no object, and what is certain about its effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Failure {
    /// Certain: it was not done, and a repeat can't help.
    #[error("Stripe refused ({code}): {message}")]
    Refused {
        /// Stripe's error code, such as `card_declined`; its error type when there is none.
        code: String,
        message: String,
    },
    /// Certain: it was not done now, because of a rate limit, another request on the same object,
    /// or a key that Stripe does not accept. A repeat is safe.
    #[error("Stripe can't do it now ({status}): {message}")]
    Busy {
        status: u16,
        /// `true` if only this object is locked by another request.
        is_lock: bool,
        /// `Retry-After`.
        retry_after: Option<Duration>,
        message: String,
    },
    /// Unknown, and every repeat of the idempotency key gets this saved answer: only the object
    /// says whether it was done.
    #[error("Stripe's answer to this key says nothing ({status}): {message}")]
    KeyConsumed { status: u16, message: String },
    /// Unknown: no answer, or none that can be parsed.
    #[error("it is unknown what became of a call to Stripe: {0}")]
    Unknown(String),
}

impl Failure {
    /// Returns `true` if Stripe does not know the object.
    #[must_use]
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { code, .. } if code == "resource_missing")
    }

    /// Returns `true` if our API key may not make this kind of call. Other kinds are not concerned.
    #[must_use]
    pub(crate) fn is_forbidden(&self) -> bool {
        matches!(self, Self::Busy { status: 403, .. })
    }

    /// Returns `true` if it concerns Stripe as a whole, or our access to it, and not this call
    /// alone.
    #[must_use]
    pub(crate) fn is_outage(&self) -> bool {
        match self {
            Self::Refused { .. } => false,
            Self::Busy { status, .. } => matches!(status, 401 | 424),
            Self::KeyConsumed { status, .. } => *status >= 500,
            Self::Unknown(_) => true,
        }
    }

    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::Busy { .. } => "busy",
            Self::KeyConsumed { .. } => "key_consumed",
            Self::Unknown(_) => "unknown",
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let ClientError::Answer {
            status,
            retry_after,
            error: details,
        } = error
        else {
            return Self::Unknown(error.to_string());
        };
        let message = details.message.unwrap_or_default();
        match status {
            401 | 403 | 409 | 424 | 429 => Self::Busy {
                status,
                is_lock: matches!(details.code, Some(ApiErrorsCode::LockTimeout)),
                retry_after,
                message,
            },
            500 => Self::KeyConsumed { status, message },
            400 if details.type_ == ApiErrorsType::IdempotencyError => {
                Self::KeyConsumed { status, message }
            }
            400..=499 => {
                let code = match &details.code {
                    Some(code) => code.as_str().to_owned(),
                    None => details.type_.as_str().to_owned(),
                };
                Self::Refused { code, message }
            }
            _ => Self::Unknown(format!("Stripe answered {status}: {message}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, kind: &str) -> Failure {
        let body = format!(r#"{{"type": "{kind}", "message": "m"}}"#);
        let details = serde_json::from_str(&body).unwrap();
        let answer = ClientError::Answer {
            status,
            retry_after: None,
            error: Box::new(details),
        };
        answer.into()
    }

    #[test]
    fn only_a_clear_refusal_is_final() {
        assert_eq!(answered(402, "card_error").label(), "refused");
        assert_eq!(answered(404, "invalid_request_error").label(), "refused");
        for status in [401, 403, 409, 429] {
            assert_eq!(answered(status, "invalid_request_error").label(), "busy");
        }
        let forbidden = answered(403, "invalid_request_error");
        assert!(forbidden.is_forbidden() && !forbidden.is_outage());
        assert!(answered(401, "invalid_request_error").is_outage());
        assert_eq!(answered(500, "api_error").label(), "key_consumed");
        assert_eq!(answered(400, "idempotency_error").label(), "key_consumed");
        assert_eq!(answered(503, "api_error").label(), "unknown");
        assert_eq!(Failure::from(ClientError::Timeout).label(), "unknown");
        assert_eq!(
            Failure::from(ClientError::Unreadable("?".into())).label(),
            "unknown"
        );
    }
}
