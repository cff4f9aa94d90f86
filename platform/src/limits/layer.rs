//! A limit around a route.

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

/// Counts requests and refuses those over the limit; see [`Limits::layer`](super::Limits::layer).
#[derive(Debug, Clone)]
pub struct LimitLayer {
    limiter: Arc<Limiter>,
    key: Key,
}

impl LimitLayer {
    pub(super) fn new(limiter: Arc<Limiter>, key: Key) -> Self {
        Self { limiter, key }
    }

    /// `None` for who is not counted.
    fn check(&self, parts: &mut Parts) -> Result<Option<Allowance>, Problem> {
        let subject = subject(self.key, parts)?;
        Ok(subject.map(|subject| self.limiter.check(subject)))
    }

    fn show(&self, allowance: Allowance, response: &mut Response) {
        // A route may have two limits; both are shown.
        let headers = response.headers_mut();
        headers.append(RATE_LIMIT_POLICY, self.limiter.policy());
        headers.append(RATE_LIMIT, self.limiter.state(allowance));
    }
}

fn subject(key: Key, parts: &mut Parts) -> Result<Option<Subject>, Problem> {
    if key != Key::Address {
        // A token that is not valid is the handler's to refuse; its address is counted.
        if let Ok(Some(caller)) = auth::identify(parts) {
            return Ok(Some(caller.account_id.into()));
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
    S: Service<Request, Error = Infallible> + Clone + Send + 'static,
    S::Response: IntoResponse,
    S::Future: Send,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        let limit = self.limit.clone();
        let allowance = match limit.check(&mut parts) {
            Ok(allowance) => allowance,
            Err(problem) => return Box::pin(async move { Ok(problem.into_response()) }),
        };
        // The one that is ready is used; its clone becomes ready for the next call.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let mut response = match allowance {
                Some(allowance) if !allowance.allowed => refusal(allowance),
                _ => inner
                    .call(Request::from_parts(parts, body))
                    .await
                    .into_response(),
            };
            if let Some(allowance) = allowance {
                limit.show(allowance, &mut response);
            }
            Ok(response)
        })
    }
}
