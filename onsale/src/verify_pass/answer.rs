//! Answers the reverse proxy's subrequests: 204 with the account, or 401 with the waiting room.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, COOKIE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::EventId;
use platform::http::Json;
use serde::Serialize;
use url::Url;

use super::keys::Keys;

/// The header in which apps send the pass.
const PASS_HEADER: &str = "onsale-pass";
/// The cookie in which browsers do.
const PASS_COOKIE: &str = "onsale_pass";
/// The header with the pass's account, for the site behind the proxy.
const ACCOUNT: &str = "onsale-account";
/// The header with the pass's expiry, in Unix seconds.
const UNTIL: &str = "onsale-pass-until";
/// The header with the URL of the waiting room.
const WAITING_ROOM: &str = "onsale-waiting-room";

pub(super) struct Guard {
    pub(super) keys: Arc<Keys>,
    pub(super) sale: EventId,
    pub(super) waiting_room: Url,
}

/// Answers every path and method alike, since proxies forward those of their client.
pub(super) fn routes(guard: Guard) -> Router {
    Router::new().fallback(judge).with_state(Arc::new(guard))
}

async fn judge(State(guard): State<Arc<Guard>>, headers: HeaderMap) -> Response {
    let Some(pass) = pass(&headers) else {
        return guard.refuse("A pass of the waiting room is needed.");
    };
    match guard.keys.verify(pass, guard.sale).await {
        Ok(claims) => {
            let until = claims.exp.to_string();
            let headers = [
                (CACHE_CONTROL.as_str(), "no-store"),
                (ACCOUNT, claims.sub.as_str()),
                (UNTIL, until.as_str()),
            ];
            (StatusCode::NO_CONTENT, headers).into_response()
        }
        Err(error) => guard.refuse(&format!("The pass is refused: {error}.")),
    }
}

#[derive(Serialize)]
struct Refusal<'a> {
    detail: &'a str,
    waiting_room: &'a Url,
}

impl Guard {
    /// 401, since `auth_request` passes on only 401 and 403.
    fn refuse(&self, detail: &str) -> Response {
        let headers = [
            (CACHE_CONTROL.as_str(), "no-store"),
            (WWW_AUTHENTICATE.as_str(), "Onsale-Pass"),
            (WAITING_ROOM, self.waiting_room.as_str()),
        ];
        let refusal = Refusal {
            detail,
            waiting_room: &self.waiting_room,
        };
        (StatusCode::UNAUTHORIZED, headers, Json(refusal)).into_response()
    }
}

/// The pass from the header, or else from the cookie.
fn pass(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(PASS_HEADER) {
        return value.to_str().ok();
    }
    headers
        .get_all(COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == PASS_COOKIE).then_some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_goes_before_the_cookie() {
        let mut headers = HeaderMap::new();
        assert_eq!(pass(&headers), None);
        headers.append(COOKIE, "a=1; onsale_pass=cookie".parse().unwrap());
        assert_eq!(pass(&headers), Some("cookie"));
        headers.insert(PASS_HEADER, "header".parse().unwrap());
        assert_eq!(pass(&headers), Some("header"));
    }

    #[test]
    fn a_cookie_of_a_similar_name_is_none() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "x_onsale_pass=1; onsale_passes=2".parse().unwrap());
        assert_eq!(pass(&headers), None);
    }
}
