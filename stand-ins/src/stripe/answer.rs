//! A response of the API, as sent and as stored under an idempotency key.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use serde_json::Value;

use super::errors::Refusal;
use super::ids;

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    status: u16,
    body: Bytes,
    pub(crate) request_id: String,
    replay_of: Option<String>,
    should_retry: Option<bool>,
}

impl Answer {
    pub(crate) fn new(status: u16, body: &Value) -> Self {
        let body = Bytes::from(body.to_string());
        Self {
            status,
            body,
            request_id: ids::request(),
            replay_of: None,
            should_retry: None,
        }
    }

    pub(crate) fn of(result: &Result<Value, Refusal>) -> Self {
        match result {
            Ok(object) => Self::new(200, object),
            Err(refusal) => Self {
                should_retry: refusal.should_retry,
                ..Self::new(refusal.status, &refusal.body())
            },
        }
    }

    /// Returns the replay of a stored response. `Stripe-Should-Retry` is false for a stored 5xx,
    /// which would be replayed again.
    pub(crate) fn replayed(self) -> Self {
        Self {
            should_retry: (self.status >= 500).then_some(false),
            replay_of: Some(self.request_id),
            request_id: ids::request(),
            ..self
        }
    }

    pub(crate) fn into_response(self) -> Response<Body> {
        let status = StatusCode::from_u16(self.status).expect("every status used is a valid one");
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert("request-id", visible(&self.request_id));
        if let Some(original) = &self.replay_of {
            headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
            headers.insert("original-request", visible(original));
        }
        if let Some(should_retry) = self.should_retry {
            let word = if should_retry { "true" } else { "false" };
            headers.insert("stripe-should-retry", HeaderValue::from_static(word));
        }
        if self.status == 429 {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

fn visible(id: &str) -> HeaderValue {
    HeaderValue::from_str(id).expect("ids are letters, digits and underscores")
}
