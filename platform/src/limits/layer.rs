//! Middleware that applies a rate limit to a route.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::http::HeaderName;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use tower::{Layer, Service};

use super::Key;
use super::limiter::{Allowance, Limiter, Subject};
use crate::auth;
use crate::http::ClientAddr;
use crate::problem::{Kind, Problem};

const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Counts requests and refuses those over a limit; see [`Limits::layer`](super::Limits::layer).
#[derive(Debug, Clone)]
pub struct LimitLayer {
    /// The first that is used up refuses, and those after it don't count the request.
    rules: Arc<[Rule]>,
}

#[derive(Debug, Clone)]
struct Rule {
    limiter: Arc<Limiter>,
    key: Key,
}

/// The remaining quota of each rule that counted a request.
type Allowances = Vec<(usize, Allowance)>;

impl LimitLayer {
    pub(super) fn new(limiter: Arc<Limiter>, key: Key) -> Self {
        Self {
            rules: Arc::new([Rule { limiter, key }]),
        }
    }

    /// This limit and then `other`, for a route that has both: cheaper than one around the other.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        let rules = self.rules.iter().chain(&*other.rules);
        Self {
            rules: rules.cloned().collect(),
        }
    }

    fn check(&self, parts: &mut Parts) -> Result<Allowances, Problem> {
        let mut allowances = Vec::with_capacity(self.rules.len());
        for (nth, rule) in self.rules.iter().enumerate() {
            let Some(subject) = subject(rule.key, parts)? else {
                continue;
            };
            let allowance = rule.limiter.check(subject);
            allowances.push((nth, allowance));
            if !allowance.allowed {
                break;
            }
        }
        Ok(allowances)
    }

    fn show(&self, allowances: &Allowances, response: &mut Response) {
        let headers = response.headers_mut();
        headers.reserve(2 * allowances.len());
        for &(nth, allowance) in allowances {
            let limiter = &self.rules[nth].limiter;
            headers.append(RATE_LIMIT_POLICY, limiter.policy());
            headers.append(RATE_LIMIT, limiter.state(allowance));
        }
    }
}

/// Returns `None` for callers that are not counted.
fn subject(key: Key, parts: &mut Parts) -> Result<Option<Subject>, Problem> {
    if key != Key::Address {
        // A token that is not valid is the handler's to refuse; its address is counted.
        if let Ok(Some(caller)) = auth::identify(parts) {
            return Ok(Some(caller.account_id.into()));
        }
        if let Some(visitor) = auth::identify_visitor(parts) {
            return Ok(Some(visitor.into()));
        }
    }
    if key == Key::AccountAlone {
        return Ok(None);
    }
    ClientAddr::of(parts).map(|ClientAddr(address)| Some(address.into()))
}

fn refusal(allowance: Allowance) -> Response {
    Problem::new(
        Kind::RateLimited,
        "Too many requests; wait as long as Retry-After says.",
    )
    .retry_after(allowance.reset)
    .into_response()
}

impl<S> Layer<S> for LimitLayer {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited {
            inner,
            limit: self.clone(),
        }
    }
}

/// A service behind a limit.
#[derive(Debug, Clone)]
pub struct Limited<S> {
    inner: S,
    limit: LimitLayer,
}

impl<S> Service<Request> for Limited<S>
where
    S: Service<Request, Error = Infallible>,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let allowances = match self.limit.check(&mut parts) {
            Ok(allowances) => allowances,
            Err(problem) => return Box::pin(async move { Ok(problem.into_response()) }),
        };
        let limit = self.limit.clone();
        if let Some((_, refused)) = allowances.last().filter(|(_, last)| !last.allowed) {
            let mut response = refusal(*refused);
            limit.show(&allowances, &mut response);
            return Box::pin(async move { Ok(response) });
        }
        // Called at once, so that the service need not be cloned.
        let answer = self.inner.call(Request::from_parts(parts, body));
        Box::pin(async move {
            let mut response = answer.await.into_response();
            limit.show(&allowances, &mut response);
            Ok(response)
        })
    }
}
