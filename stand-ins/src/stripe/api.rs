//! Request pipeline: authentication, faults, idempotency, effect, webhooks.

mod bank;
mod effects;
mod test_calls;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use serde_json::Value;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::answer::Answer;
use super::auth::{Caller, Keys};
use super::calendar;
use super::errors::Refusal;
use super::faults::{ApiFault, ApiFaults, delay};
use super::form::Form;
use super::idempotency::{Claim, Turn, UsedKeys};
use super::ledger::{Effect, Ledger, News};
use super::limits::Limits;
use super::operation::Operation;
use super::parameters;
use super::refunds;
use super::version;
use super::webhooks::Webhooks;
use crate::listen::Connection;

/// Bound on the size of a request body.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// State shared by all requests.
pub(crate) struct Api {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) keys: Keys,
    pub(crate) used_keys: UsedKeys,
    pub(crate) faults: Arc<ApiFaults>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) webhooks: Webhooks,
    pub(crate) refund_settles_after: Duration,
    pub(crate) stop: CancellationToken,
}

/// An authenticated request with parsed parameters.
struct Call {
    operation: Operation,
    path: String,
    key: Option<String>,
    form: Form,
    effect: Effect,
}

/// Response to a caller, which a fault may cut off.
enum Reply {
    Answer(Answer),
    /// The response, cut off after this many bytes.
    Cut(Answer, u64),
    /// No response, ever.
    Silence,
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        Self::Answer(Answer::of(&Err(refusal)))
    }
}

pub(crate) fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route(
            "/test/payment_intents/{id}/authenticate",
            get(test_calls::ask).post(test_calls::authenticate),
        )
        .route(
            "/test/payment_intents/{id}/dispute",
            post(test_calls::dispute),
        )
        .route("/test/disputes/{id}/close", post(test_calls::close_dispute))
        .route(
            "/test/faults",
            post(test_calls::add_faults)
                .get(test_calls::list_faults)
                .delete(test_calls::clear_faults),
        )
        .fallback(serve)
        .layer(from_fn(allow_browsers))
        .with_state(api)
}

/// CORS: pages of any origin pay with the publishable key, as at Stripe.
async fn allow_browsers(request: Request, next: Next) -> Response<Body> {
    let mut response = if request.method() == Method::OPTIONS {
        StatusCode::NO_CONTENT.into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    for (name, value) in [
        ("access-control-allow-origin", "*"),
        (
            "access-control-allow-headers",
            "authorization, content-type, idempotency-key, stripe-version",
        ),
        ("access-control-allow-methods", "GET, POST, DELETE, OPTIONS"),
        (
            "access-control-expose-headers",
            "request-id, stripe-version, stripe-should-retry",
        ),
        ("access-control-max-age", "300"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn serve(
    State(api): State<Arc<Api>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    request: Request,
) -> Response<Body> {
    let echo = echo(request.headers());
    let mut response = reply(&api, &connection, request).await;
    response.headers_mut().extend(echo);
    response
}

/// Returns the request headers that Stripe echoes in its response.
fn echo(headers: &HeaderMap) -> HeaderMap {
    let mut echo = HeaderMap::new();
    let default = HeaderValue::from_static(version::DEFAULT);
    let version = headers.get(version::HEADER).cloned();
    echo.insert(version::HEADER, version.unwrap_or(default));
    if let Some(key) = headers.get("idempotency-key") {
        echo.insert("idempotency-key", key.clone());
    }
    echo
}

async fn reply(api: &Arc<Api>, connection: &Connection, request: Request) -> Response<Body> {
    let reply = match api.read(request).await {
        Err(refusal) => refusal.into(),
        Ok(call) => {
            // In its own task: the effect must complete even if the caller disconnects.
            let answering = tokio::spawn(Arc::clone(api).answer(call));
            answering
                .await
                .unwrap_or_else(|_| Refusal::server_error().into())
        }
    };
    match reply {
        Reply::Answer(answer) => answer.into_response(),
        Reply::Cut(answer, bytes) => {
            connection.cut_after(bytes);
            answer.into_response()
        }
        Reply::Silence => {
            api.stop.cancelled().await;
            connection.cut_after(0);
            Response::new(Body::empty())
        }
    }
}

impl Api {
    async fn read(&self, request: Request) -> Result<Call, Refusal> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let Some((operation, id)) = Operation::route(parts.method.as_str(), &path) else {
            return Err(Refusal::unknown_url(parts.method.as_str(), &path));
        };
        let body = to_bytes(body, MAX_BODY_BYTES)
            .await
            .map_err(|_| Refusal::malformed("The request body is too large or incomplete."))?;
        if !body.is_empty() && !is_form(&parts.headers) {
            let message = "The request body must be application/x-www-form-urlencoded.";
            return Err(Refusal::malformed(message));
        }
        version::check(&parts.headers)?;
        let form = Form::parse(parts.uri.query().unwrap_or_default(), &body)?;
        let caller = self.keys.caller(&parts.headers, &form, operation)?;
        if matches!(caller, Caller::Account) && !self.limits.take(operation, Instant::now()) {
            return Err(Refusal::rate_limit());
        }
        let key = parts
            .headers
            .get("idempotency-key")
            .and_then(|key| key.to_str().ok());
        let key = key.filter(|_| operation.is_write()).map(str::to_owned);
        if let Some(key) = &key {
            self.used_keys.check(key, &path, &form)?;
        }
        parameters::check(operation, &form)?;
        let effect = effects::of(operation, id, &form, caller, &self.webhooks)?;
        Ok(Call {
            operation,
            path,
            key,
            form,
            effect,
        })
    }

    async fn answer(self: Arc<Self>, call: Call) -> Reply {
        let fault = self.faults.pick(&call.operation, |_| true);
        match fault {
            Some(ApiFault::ServerError) => return Refusal::server_error().into(),
            Some(ApiFault::Refused { status }) => return Refusal::asked_for(status).into(),
            Some(ApiFault::RateLimit) => return Refusal::rate_limit().into(),
            Some(ApiFault::Locked) => return Refusal::locked().into(),
            Some(ApiFault::KeyInUse) => {
                return Refusal::key_in_use(call.key.as_deref().unwrap_or_default()).into();
            }
            Some(ApiFault::Hang) => return Reply::Silence,
            Some(ApiFault::CutBeforeEffect) => {
                return Reply::Cut(Answer::of(&Err(Refusal::server_error())), 0);
            }
            _ => {}
        }
        let claim = match self.claim(&call) {
            Ok(claim) => claim,
            Err(reply) => return reply,
        };
        if let Some(ApiFault::Delay { milliseconds }) = fault {
            self.faults.delay(delay(milliseconds)).await;
        }
        let answer = self.execute(call, claim, fault);
        match fault {
            Some(ApiFault::HangAfterEffect) => Reply::Silence,
            Some(ApiFault::CutAfterEffect { bytes }) => Reply::Cut(answer, bytes),
            _ => Reply::Answer(answer),
        }
    }

    /// Claims the idempotency key; `None` without one.
    fn claim(&self, call: &Call) -> Result<Option<Claim>, Reply> {
        let Some(key) = &call.key else {
            return Ok(None);
        };
        let now = self.ledger.open().now();
        match self.used_keys.begin(key, &call.path, &call.form, now) {
            Err(refusal) => Err(refusal.into()),
            Ok(Turn::Again(answer)) => Err(Reply::Answer(answer.replayed())),
            Ok(Turn::First(claim)) => Ok(Some(claim)),
        }
    }

    fn execute(
        self: &Arc<Self>,
        call: Call,
        claim: Option<Claim>,
        fault: Option<ApiFault>,
    ) -> Answer {
        let Call {
            operation,
            key,
            effect,
            ..
        } = call;
        if fault == Some(ApiFault::SavedServerError) {
            return save(&Err(Refusal::server_error()), claim);
        }
        let (result, news) = self.change_books(effect);
        if let (Operation::CreateRefund, Ok(refund)) = (operation, &result) {
            self.settle_later(refund);
        }
        let result = match fault {
            Some(ApiFault::SavedServerErrorAfterEffect) => Err(Refusal::server_error()),
            _ => result,
        };
        let answer = save(&result, claim);
        self.webhooks
            .publish(news, &answer.request_id, key.as_deref());
        answer
    }

    fn change_books(&self, effect: Effect) -> (Result<Value, Refusal>, Vec<News>) {
        let mut books = self.ledger.open();
        calendar::expire_due(&mut books);
        let result = effect(&mut books);
        (result, books.take_news())
    }

    /// Schedules the settlement of a refund that stays pending.
    fn settle_later(self: &Arc<Self>, refund: &Value) {
        let id = refund["id"].as_str().unwrap_or_default().to_owned();
        let Some(end) = refunds::late_end(&self.ledger.open(), &id) else {
            return;
        };
        let api = Arc::clone(self);
        tokio::spawn(async move {
            let wait = tokio::time::sleep(api.refund_settles_after);
            if api.stop.run_until_cancelled(wait).await.is_none() {
                return;
            }
            let news = {
                let mut books = api.ledger.open();
                refunds::settle(&mut books, &id, end);
                books.take_news()
            };
            api.webhooks.publish(news, "", None);
        });
    }
}

fn save(result: &Result<Value, Refusal>, claim: Option<Claim>) -> Answer {
    let answer = Answer::of(result);
    let executed = result
        .as_ref()
        .map_or_else(|refusal| refusal.executed, |_| true);
    if let Some(claim) = claim.filter(|_| executed) {
        claim.save(&answer);
    }
    answer
}

fn is_form(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.starts_with("application/x-www-form-urlencoded"))
}
