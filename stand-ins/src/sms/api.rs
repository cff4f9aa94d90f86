//! `POST /2010-04-01/Accounts/{sid}/Messages.json`: sends a message.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, DefaultBodyLimit, Path, State};
use axum::http::header::{AUTHORIZATION, RETRY_AFTER};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::{Shared, Sms, SmsFault, sid};
use crate::listen::Connection;

/// Bound on the size of a request.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// Twilio's bound on the length of a text, in characters.
const MAX_BODY_CHARACTERS: usize = 1_600;
/// Maximum delay of a fault.
const MAX_DELAY: Duration = Duration::from_secs(10 * 60);

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/2010-04-01/Accounts/{account}/Messages.json", post(send))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(shared)
}

/// An error response, with Twilio's error code.
struct Refusal {
    status: StatusCode,
    code: u32,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, code: u32, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
        }
    }

    fn rate_limit() -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, 20429, "Too Many Requests")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let body = json!({
            "code": self.code,
            "message": self.message,
            "more_info": format!("https://www.twilio.com/docs/errors/{}", self.code),
            "status": self.status.as_u16(),
        });
        let mut response = (self.status, Json(body)).into_response();
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(RETRY_AFTER, 1.into());
        }
        response
    }
}

async fn send(
    State(shared): State<Arc<Shared>>,
    ConnectInfo(connection): ConnectInfo<Connection>,
    Path(account): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response<Body>, Refusal> {
    authenticate(&shared, &account, &headers)?;
    let sms = read(&body)?;
    let fault = shared.faults.pick(&sms.to, |_| true);
    match fault {
        Some(SmsFault::RateLimit) => return Err(Refusal::rate_limit()),
        Some(SmsFault::ServerError) => {
            return Err(Refusal::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                20500,
                "Internal Server Error",
            ));
        }
        _ => {}
    }
    let answer = accepted(&shared, &sms);
    shared
        .inbox
        .store(Arc::new(sms))
        .map_err(|_| Refusal::rate_limit())?;
    match fault {
        Some(SmsFault::AcceptThenCut) => connection.cut_after(0),
        Some(SmsFault::Delay { milliseconds }) => {
            let wait = Duration::from_millis(milliseconds).min(MAX_DELAY);
            // Cancelled on shutdown: the response is then sent early.
            let _ = shared
                .stop
                .run_until_cancelled(tokio::time::sleep(wait))
                .await;
        }
        _ => {}
    }
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

fn authenticate(shared: &Shared, account: &str, headers: &HeaderMap) -> Result<(), Refusal> {
    let expected = BASE64_STANDARD.encode(format!("{}:{}", shared.account_sid, shared.auth_token));
    let given = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Basic "));
    if given == Some(expected.as_str()) && account == shared.account_sid {
        return Ok(());
    }
    Err(Refusal::new(
        StatusCode::UNAUTHORIZED,
        20003,
        "Authenticate",
    ))
}

fn read(body: &[u8]) -> Result<Sms, Refusal> {
    let mut form: HashMap<_, _> = form_urlencoded::parse(body).into_owned().collect();
    let mut take = |name: &str| form.remove(name).filter(|value| !value.is_empty());
    let bad = |code, message: &str| Refusal::new(StatusCode::BAD_REQUEST, code, message);
    let to = take("To").ok_or_else(|| bad(21604, "A 'To' phone number is required."))?;
    let from = take("From").ok_or_else(|| bad(21603, "A 'From' phone number is required."))?;
    let body = take("Body").ok_or_else(|| bad(21602, "Message body is required."))?;
    if !is_e164(&to) {
        return Err(bad(21211, &format!("Invalid 'To' Phone Number: {to}")));
    }
    if body.chars().count() > MAX_BODY_CHARACTERS {
        let message = "The concatenated message body exceeds the 1600 character limit";
        return Err(bad(21617, message));
    }
    Ok(Sms {
        sid: sid("SM"),
        from,
        to,
        body,
    })
}

fn is_e164(number: &str) -> bool {
    number.strip_prefix('+').is_some_and(|digits| {
        (7..=15).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit())
    })
}

fn accepted(shared: &Shared, sms: &Sms) -> Value {
    let now = shared.clock.now().to_rfc2822();
    let uri = format!(
        "/2010-04-01/Accounts/{}/Messages/{}",
        shared.account_sid, sms.sid
    );
    json!({
        "account_sid": shared.account_sid,
        "api_version": "2010-04-01",
        "body": sms.body,
        "date_created": now,
        "date_sent": null,
        "date_updated": now,
        "direction": "outbound-api",
        "error_code": null,
        "error_message": null,
        "from": sms.from,
        "messaging_service_sid": null,
        "num_media": "0",
        "num_segments": "1",
        "price": null,
        "price_unit": null,
        "sid": sms.sid,
        "status": "queued",
        "subresource_uris": { "media": format!("{uri}/Media.json") },
        "to": sms.to,
        "uri": format!("{uri}.json"),
    })
}
