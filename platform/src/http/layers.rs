//! The layers around every route: tracing, metrics, timeout, panics, compression.

use std::any::Any;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, COOKIE, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::limits::MAX_BODY_BYTES;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use metrics::Gauge;
use tower::{Layer, Service};
use tracing::Instrument;

use super::HttpState;
use super::address;
use super::compress::compress;
use super::metrics::HttpMetrics;
use crate::pg;
use crate::problem::{Kind, Problem};
use crate::telemetry::{Throttle, TraceContext};

static FAILURES: Throttle = Throttle::new();
const ONE_YEAR: HeaderValue = HeaderValue::from_static("max-age=31536000");

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The route of requests that match none.
const UNMATCHED: &str = "unmatched";

static METRICS: LazyLock<HttpMetrics> = LazyLock::new(HttpMetrics::default);
static IN_FLIGHT: LazyLock<Gauge> = LazyLock::new(|| metrics::gauge!("http_requests_in_flight"));

/// Puts the layers around `routes`: trace and request id, access log, metrics, time limit, panics
/// and unknown paths as problems, body limit (a route raises its own with
/// [`DefaultBodyLimit`]), compression. `routes` must have no fallback of its own.
pub fn wrap(routes: Router, shared: Arc<HttpState>) -> Router {
    let is_quick = false;
    routes
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer((
            Observe { shared, is_quick },
            DefaultBodyLimit::max(MAX_BODY_BYTES),
        ))
}

/// Like [`wrap`], without a span, compression and a fallback: for routes so hot that these would be
/// noticeable. Their handlers' log lines carry no request id.
pub fn wrap_quick(routes: Router, shared: Arc<HttpState>) -> Router {
    let is_quick = true;
    routes.layer((
        Observe { shared, is_quick },
        DefaultBodyLimit::max(MAX_BODY_BYTES),
    ))
}

async fn not_found() -> Problem {
    Problem::new(Kind::NotFound, "Nothing answers at this path.")
}

async fn method_not_allowed() -> Problem {
    Problem::new(
        Kind::MethodNotAllowed,
        "See the Allow header for the methods of this path.",
    )
}

/// One layer for what every request needs, since polls are many.
#[derive(Clone)]
struct Observe {
    shared: Arc<HttpState>,
    is_quick: bool,
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed {
            inner,
            shared: self.shared.clone(),
            is_quick: self.is_quick,
        }
    }
}

#[derive(Clone)]
struct Observed<S> {
    inner: S,
    shared: Arc<HttpState>,
    is_quick: bool,
}

impl<S> Service<Request> for Observed<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        address::warn_of_untrusted(&request, &self.shared);
        let exchange = Exchange::begin(&request, self.shared.is_secure);
        let limit = self.shared.request_timeout;
        let is_quick = self.is_quick;
        let accepts = (!is_quick).then(|| request.headers().get(ACCEPT_ENCODING).cloned());
        request.extensions_mut().insert(self.shared.clone());
        let span = (!is_quick).then(|| exchange.span());
        // Called at once, so that the service need not be cloned.
        let called = {
            let _entered = span.as_ref().map(tracing::Span::enter);
            catch_unwind(AssertUnwindSafe(|| self.inner.call(request)))
        };
        let answer = async move {
            let call = async {
                match called {
                    Ok(answer) => AssertUnwindSafe(answer).catch_unwind().await,
                    Err(panic) => Err(panic),
                }
            };
            let response = match tokio::time::timeout(limit, call).await {
                Ok(Ok(Ok(response))) => response,
                Ok(Ok(Err(never))) => match never {},
                Ok(Err(panic)) => panicked(panic.as_ref()),
                Err(_) => {
                    // It may have waited on a silent connection.
                    pg::doubt();
                    timed_out(limit)
                }
            };
            let response = match accepts {
                Some(accepts) => compress(accepts, response).await,
                None => response,
            };
            Ok(exchange.end(response))
        };
        match span {
            Some(span) => Box::pin(answer.instrument(span)),
            None => Box::pin(answer),
        }
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Response {
    let message = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)");
    tracing::error!(message, "a handler panicked");
    Problem::defect().into_response()
}

fn timed_out(limit: Duration) -> Response {
    tracing::warn!(?limit, "a handler took too long");
    Problem::new(
        Kind::Overloaded,
        "The answer took too long; try again in a moment.",
    )
    .into_response()
}

/// One request and its answer, as far as they are observed.
struct Exchange {
    begun: Instant,
    method: Method,
    route: Option<MatchedPath>,
    trace: TraceContext,
    /// The trace's id as text.
    id: HeaderValue,
    /// Whether the request carries credentials, so that the response may be private.
    is_personal: bool,
    is_secure: bool,
    has_ended: bool,
}

impl Exchange {
    fn begin(request: &Request, is_secure: bool) -> Self {
        IN_FLIGHT.increment(1.0);
        let parent = request
            .headers()
            .get("traceparent")
            .and_then(|value| value.to_str().ok())
            .and_then(TraceContext::parse);
        let trace = parent.map_or_else(TraceContext::root, TraceContext::child);
        Self {
            begun: Instant::now(),
            method: request.method().clone(),
            route: request.extensions().get().cloned(),
            id: HeaderValue::try_from(trace.trace_id().to_string())
                .expect("hexadecimal digits are a header value"),
            is_personal: [AUTHORIZATION, COOKIE]
                .iter()
                .any(|header| request.headers().contains_key(header)),
            is_secure,
            has_ended: false,
            trace,
        }
    }

    fn route(&self) -> &str {
        self.route.as_ref().map_or(UNMATCHED, MatchedPath::as_str)
    }

    fn span(&self) -> tracing::Span {
        // The highest level, so that no log filter takes the trace away.
        let span = tracing::error_span!(
            parent: None,
            "request",
            method = self.method.as_str(),
            route = self.route(),
            trace_id = self.id.to_str().unwrap_or_default(),
        );
        self.trace.attach(&span);
        span
    }

    fn end(mut self, mut response: Response) -> Response {
        let status = response.status();
        let latency = self.begun.elapsed();
        METRICS.record(self.route(), &self.method, Some(status), latency);
        log(self.route(), status, latency);
        self.has_ended = true;
        self.complete(response.headers_mut());
        response
    }

    /// Adds the headers that every answer has.
    fn complete(&self, headers: &mut HeaderMap) {
        headers.insert(REQUEST_ID, self.id.clone());
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.is_personal && !headers.contains_key(CACHE_CONTROL) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        if self.is_secure {
            headers.insert(STRICT_TRANSPORT_SECURITY, ONE_YEAR);
        }
    }
}

/// A drop before the end means that the client hung up, which is recorded here.
impl Drop for Exchange {
    fn drop(&mut self) {
        IN_FLIGHT.decrement(1.0);
        if !self.has_ended {
            let latency = self.begun.elapsed();
            METRICS.record(self.route(), &self.method, None, latency);
            tracing::debug!(
                latency_seconds = latency.as_secs_f64(),
                "the client hung up"
            );
        }
    }
}

fn log(route: &str, status: StatusCode, latency: Duration) {
    let status_code = status.as_u16();
    let latency_seconds = latency.as_secs_f64();
    if status.is_server_error() {
        if let Some(suppressed) = FAILURES.permit(&format!("{route} {status_code}")) {
            tracing::warn!(status_code, latency_seconds, suppressed, "request failed");
        }
    } else {
        tracing::debug!(status_code, latency_seconds, "request answered");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use axum::body::Body;
    use axum::routing::get;
    use domain::clock::SystemClock;
    use secrecy::SecretString;

    use super::*;
    use crate::health::Health;
    use crate::telemetry::captured;
    use crate::tokens::KeyRing;

    async fn refuses() -> Problem {
        Problem::overloaded(&std::io::Error::other("the database of this test is away"))
    }

    fn served() -> Router {
        let secret = SecretString::from("test-secret-test-secret-test-secret");
        let shared = HttpState {
            keys: Arc::new(KeyRing::new(&[secret]).unwrap()),
            clock: SystemClock::shared(),
            trusted_proxies: Vec::new(),
            request_timeout: Duration::from_secs(10),
            is_secure: false,
            health: Health::default(),
            has_untrusted_forwarder: AtomicBool::new(false),
        };
        let routes = Router::new().route("/refuses", get(refuses));
        wrap(routes.route("/refuses/too", get(refuses)), Arc::new(shared))
    }

    #[test]
    fn thousands_of_refused_requests_are_a_few_lines() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let begun = std::time::Instant::now();
        let lines = captured::warnings(|| {
            runtime.block_on(async {
                let mut routes = served();
                for path in ["/refuses", "/refuses/too"] {
                    for _ in 0..2_000 {
                        let mut request = Request::new(Body::empty());
                        *request.uri_mut() = path.parse().unwrap();
                        let Ok(answer) = routes.call(request).await;
                        assert_eq!(answer.status(), 503);
                    }
                }
            });
        });
        let of = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
        let (refused, failed) = (
            of("the database of this test is away"),
            of("request failed"),
        );
        // One of each kind, and again after ten seconds on a machine that is so slow.
        let most = 1 + usize::try_from(begun.elapsed().as_secs() / 10).unwrap();
        assert!((1..=most).contains(&refused), "{lines:?}");
        assert!((2..=2 * most).contains(&failed), "of each route: {lines:?}");
        assert_eq!(lines.len(), refused + failed, "{lines:?}");
    }
}
