//! Extractors whose rejections are problems. Accepted text contains no U+0000, so PostgreSQL can
//! store it.

use std::error::Error;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::storable::{has_nul_in_json, has_nul_in_query, nul_in};
use crate::problem::{Kind, Problem};

/// A JSON body. As an extractor it refuses other media types, bodies over the limit, and JSON
/// that is not a `T`, saying where; as a response it is `application/json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(pub T);

/// The path's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path<T>(pub T);

/// The query's parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<T>(pub T);

/// The raw body, for signature verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawBody(pub Bytes);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                Kind::UnsupportedMediaType,
                "Send the body as `Content-Type: application/json`.",
            ));
        }
        let RawBody(body) = RawBody::from_request(request, state).await?;
        Self::parse(&body)
    }
}

impl<T: DeserializeOwned> Json<T> {
    /// Parses a body, whatever its media type.
    ///
    /// # Errors
    /// `malformed` for other JSON than a `T`; `invalid` for a field that a `T` does not have.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        if has_nul_in_json(body) {
            return Err(nul_in("The JSON"));
        }
        match extract::Json::from_bytes(body) {
            Ok(extract::Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(malformed_json(&rejection)),
        }
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => Problem::internal(&error).into_response(),
        }
    }
}

impl<S: Send + Sync> FromRequest<S> for RawBody {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        Bytes::from_request(request, state)
            .await
            .map(Self)
            .map_err(|rejection| unread(&rejection))
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        if let Ok(texts) = extract::RawPathParams::from_request_parts(parts, state).await
            && texts.iter().any(|(_, text)| text.contains('\0'))
        {
            return Err(nul_in("The path"));
        }
        match extract::Path::from_request_parts(parts, state).await {
            Ok(extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                Err(malformed("The path", &innermost(&error)))
            }
            Err(other) => Err(Problem::internal(&other)),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        if parts.uri.query().is_some_and(has_nul_in_query) {
            return Err(nul_in("The query"));
        }
        match extract::Query::from_request_parts(parts, state).await {
            Ok(extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(bad_query(&rejection)),
        }
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let essence = value.split(';').next().unwrap_or_default().trim();
    essence.eq_ignore_ascii_case("application/json")
}

fn malformed(what: &str, why: &str) -> Problem {
    Problem::new(Kind::Malformed, format!("{what} can't be read: {why}."))
}

/// serde's message names the field by its path, and the line. A field that a body does not have is
/// `invalid`: mostly a name that is misspelt.
fn malformed_json(rejection: &JsonRejection) -> Problem {
    unreadable("The JSON", &innermost(rejection))
}

/// The problem for input that serde refused.
fn unreadable(what: &str, why: &str) -> Problem {
    match unknown_field(why) {
        Some((field, known)) => {
            let detail = format!("There is no field `{field}` here; {known}.");
            Problem::new(Kind::Invalid, detail).with("field", field)
        }
        None => malformed(what, why),
    }
}

/// Parses the unknown field, and those serde expected, out of its message.
fn unknown_field(why: &str) -> Option<(&str, &str)> {
    let (_, rest) = why.split_once("unknown field `")?;
    let (field, rest) = rest.split_once('`')?;
    let known = rest.trim_start_matches(", ");
    let end = known.find(" at line ").unwrap_or(known.len());
    Some((field, &known[..end]))
}

fn bad_query(rejection: &QueryRejection) -> Problem {
    unreadable("The query", &innermost(rejection))
}

fn unread(rejection: &BytesRejection) -> Problem {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        return Problem::new(Kind::TooLarge, "The body is longer than this path takes.");
    }
    malformed("The body", "the connection ended before it was complete")
}

/// Returns the message of an error's root cause; the messages above it name our types.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_field_is_named() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            #[expect(dead_code, reason = "only read")]
            paused: bool,
        }
        let body = br#"{"paused": true, "pause": true}"#;
        let rejection = extract::Json::<Body>::from_bytes(body).unwrap_err();
        let problem = malformed_json(&rejection);
        assert_eq!(problem.kind(), Kind::Invalid);
        assert_eq!(
            problem.detail(),
            "There is no field `pause` here; expected `paused`."
        );
    }

    #[test]
    fn a_misspelt_option_of_a_query_is_named() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Options {
            #[expect(dead_code, reason = "only read")]
            limit: Option<u32>,
        }
        let uri = "/?limt=3".parse().unwrap();
        let rejection = extract::Query::<Options>::try_from_uri(&uri).unwrap_err();
        let problem = bad_query(&rejection);
        assert_eq!(problem.kind(), Kind::Invalid);
        assert_eq!(
            problem.detail(),
            "There is no field `limt` here; expected `limit`."
        );
    }
}
