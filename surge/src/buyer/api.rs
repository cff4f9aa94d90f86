//! Client of Onsale's public API, with the retries of a patient buyer.

use std::net::IpAddr;
use std::time::Duration;

use rand::Rng;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use url::Url;

use super::funnel::Funnel;

/// Timeout of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Cap on the pause that a `Retry-After` demands.
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Time for which a request is retried while the server is busy or unreachable.
const PATIENCE: Duration = Duration::from_secs(120);

/// Base URLs of the public API; the services may run on separate addresses.
#[derive(Debug, Clone)]
pub struct Endpoints {
    /// Accounts and events.
    pub box_office: Url,
    /// The queue.
    pub waiting_room: Url,
    /// The pass and bookings.
    pub admission: Url,
}

impl Endpoints {
    /// All services behind one address.
    #[must_use]
    pub fn at(url: &Url) -> Self {
        Self {
            box_office: url.clone(),
            waiting_room: url.clone(),
            admission: url.clone(),
        }
    }
}

/// Failure of a call.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server responded with a problem.
    #[error("{status} {kind}: {detail}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The last segment of the problem's `type`.
        kind: String,
        /// The problem's `detail`.
        detail: String,
        /// The whole problem.
        problem: Value,
    },
    /// The buyer with this mail address did not finish in time.
    #[error("{0} is still in the middle of the purchase after {1:?}")]
    OutOfPatience(String, Duration),
    /// The request failed, or its response was unusable.
    #[error("no usable answer to {0}")]
    NoAnswer(String, #[source] reqwest::Error),
}

impl ApiError {
    /// Returns the name of the problem; empty without a response.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Refused { kind, .. } => kind,
            Self::NoAnswer(..) | Self::OutOfPatience(..) => "",
        }
    }
}

/// A client of the public API for one simulated person.
#[derive(Debug, Clone)]
pub struct Api {
    client: reqwest::Client,
    endpoints: Endpoints,
    address: IpAddr,
}

/// Headers of a call.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Credentials<'a> {
    /// The access token.
    pub access: Option<&'a str>,
    /// The queue token.
    pub queue_token: Option<&'a str>,
    /// The pass.
    pub pass: Option<&'a str>,
    /// The idempotency key.
    pub idempotency_key: Option<&'a str>,
}

impl Api {
    /// A client of `endpoints` that sends `address` in `X-Forwarded-For`: a load generator stands
    /// in the place of a trusted load balancer.
    #[must_use]
    pub fn new(client: reqwest::Client, endpoints: Endpoints, address: IpAddr) -> Self {
        Self {
            client,
            endpoints,
            address,
        }
    }

    /// URL of a path of accounts or events.
    pub(super) fn box_office(&self, path: &str) -> Url {
        at(&self.endpoints.box_office, path)
    }

    /// URL of a path of the queue.
    pub(super) fn waiting_room(&self, path: &str) -> Url {
        at(&self.endpoints.waiting_room, path)
    }

    /// URL of a path of passes or bookings.
    pub(super) fn admission(&self, path: &str) -> Url {
        at(&self.endpoints.admission, path)
    }

    /// Sends a request, with retries while the server is busy or unreachable.
    pub(super) async fn call(
        &self,
        method: Method,
        url: &Url,
        credentials: Credentials<'_>,
        body: Option<&Value>,
        funnel: &Funnel,
    ) -> Result<Value, ApiError> {
        let started = tokio::time::Instant::now();
        loop {
            let answer = self.once(method.clone(), url, credentials, body).await;
            funnel.ended(answer.as_ref().ok().map(Reply::status));
            let pause = match &answer {
                Ok(Reply::Busy(pause, _)) => *pause,
                Err(_) => Duration::from_millis(300),
                Ok(Reply::Done(_) | Reply::Refused(_)) => Duration::ZERO,
            };
            if let Ok(Reply::Busy(_, ApiError::Refused { status, .. })) = &answer
                && *status == StatusCode::TOO_MANY_REQUESTS
            {
                funnel.limited();
            }
            let patient = started.elapsed() + pause < PATIENCE;
            match answer {
                Ok(Reply::Done(value)) => return Ok(value),
                Ok(Reply::Refused(error)) => return Err(error),
                Ok(Reply::Busy(_, error)) if !patient => return Err(error),
                Err(error) if !patient => return Err(ApiError::NoAnswer(url.to_string(), error)),
                Ok(Reply::Busy(..)) | Err(_) => {}
            }
            funnel.retried();
            tokio::time::sleep(jittered(pause)).await;
        }
    }

    /// Loads a page, which is not JSON. A failure is ignored.
    pub(super) async fn visit(&self, url: &Url) {
        let request = self.client.get(url.clone()).timeout(REQUEST_TIMEOUT);
        let request = request.header("x-forwarded-for", self.address.to_string());
        if let Err(error) = async { request.send().await?.bytes().await }.await {
            tracing::debug!(%error, %url, "failed to load a page");
        }
    }

    async fn once(
        &self,
        method: Method,
        url: &Url,
        credentials: Credentials<'_>,
        body: Option<&Value>,
    ) -> Result<Reply, reqwest::Error> {
        let request = self
            .client
            .request(method, url.clone())
            .timeout(REQUEST_TIMEOUT)
            .header("x-forwarded-for", self.address.to_string());
        let request = with_credentials(request, credentials);
        let request = if let Some(body) = body {
            request.json(body)
        } else {
            request
        };
        let response = request.send().await?;
        let status = response.status();
        let pause = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok()?.parse().ok())
            .map_or(Duration::from_millis(500), Duration::from_secs)
            .clamp(Duration::from_millis(200), MAX_PAUSE);
        let bytes = response.bytes().await?;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status.is_success() {
            return Ok(Reply::Done(value));
        }
        let error = refusal(status, value);
        let is_busy = status == StatusCode::TOO_MANY_REQUESTS
            || status.is_server_error()
            || error.kind() == "idempotency-key-in-progress";
        if is_busy {
            Ok(Reply::Busy(pause, error))
        } else {
            Ok(Reply::Refused(error))
        }
    }

    /// Confirms a PaymentIntent as Stripe.js does, with the publishable key and the client secret.
    /// Returns the intent, or Stripe's error object.
    pub(super) async fn confirm_payment(
        &self,
        payment: &Value,
        payment_method: &str,
        return_url: &str,
    ) -> Result<Value, reqwest::Error> {
        let intent = text(payment, "intent_id");
        let url = format!(
            "{}/v1/payment_intents/{intent}/confirm",
            text(payment, "api_url")
        );
        let form = json!({
            "client_secret": text(payment, "client_secret"),
            "payment_method": payment_method,
            "return_url": return_url,
        });
        self.post_form(&url, text(payment, "publishable_key"), &form)
            .await
    }

    /// Passes the 3-D Secure challenge, as a buyer does on the bank's page. Only the stand-in has
    /// this endpoint.
    pub(super) async fn authenticate(&self, payment: &Value) -> Result<Value, reqwest::Error> {
        let intent = text(payment, "intent_id");
        let api = text(payment, "api_url");
        let url = format!("{api}/test/payment_intents/{intent}/authenticate");
        let form = json!({ "outcome": "success" });
        self.post_form(&url, text(payment, "publishable_key"), &form)
            .await
    }

    async fn post_form(&self, url: &str, key: &str, form: &Value) -> Result<Value, reqwest::Error> {
        let request = self
            .client
            .post(url)
            .timeout(REQUEST_TIMEOUT)
            .bearer_auth(key)
            .form(form);
        request.send().await?.json().await
    }
}

enum Reply {
    Done(Value),
    Refused(ApiError),
    Busy(Duration, ApiError),
}

impl Reply {
    fn status(&self) -> StatusCode {
        match self {
            Self::Refused(ApiError::Refused { status, .. })
            | Self::Busy(_, ApiError::Refused { status, .. }) => *status,
            _ => StatusCode::OK,
        }
    }
}

/// Adds jitter, so that a crowd does not retry in step.
pub(super) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.8..1.3))
}

fn at(base: &Url, path: &str) -> Url {
    base.join(path)
        .expect("paths are literals and ids, which are valid in a URL")
}

fn with_credentials(request: RequestBuilder, credentials: Credentials<'_>) -> RequestBuilder {
    let request = match credentials.access {
        Some(token) => request.bearer_auth(token),
        None => request,
    };
    let headers = [
        ("onsale-queue-token", credentials.queue_token),
        ("onsale-pass", credentials.pass),
        ("idempotency-key", credentials.idempotency_key),
    ];
    headers
        .into_iter()
        .fold(request, |request, (name, value)| match value {
            Some(value) => request.header(name, value),
            None => request,
        })
}

fn refusal(status: StatusCode, problem: Value) -> ApiError {
    let kind = text(&problem, "type")
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned();
    let detail = text(&problem, "detail").to_owned();
    ApiError::Refused {
        status,
        kind,
        detail,
        problem,
    }
}

/// Returns the string in `value[key]`; empty when there is none.
pub(super) fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}
