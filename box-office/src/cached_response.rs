//! Responses serialized once for all callers, with conditional requests by `ETag`.

use std::io::Write as _;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use platform::http::FOR_A_SECOND;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Smallest body that is compressed.
const PACK_ABOVE_BYTES: usize = 1_024;

/// A JSON response, serialized once.
#[derive(Debug, Clone)]
pub(crate) struct CachedResponse {
    body: Bytes,
    /// The body compressed with gzip.
    packed: Option<Bytes>,
    etag: HeaderValue,
}

impl CachedResponse {
    /// Creates the response of `value` as JSON.
    pub(crate) fn json(value: &impl Serialize) -> Self {
        Self::ready(
            serde_json::to_vec(value)
                .expect("answers are plain JSON")
                .into(),
        )
    }

    /// Creates the response of a body that is JSON already.
    pub(crate) fn ready(body: Bytes) -> Self {
        // Weak, because a proxy may compress the body on its way out.
        let etag = format!(
            "W/\"{}\"",
            URL_SAFE_NO_PAD.encode(&Sha256::digest(&body)[..12])
        );
        let etag = HeaderValue::try_from(etag).expect("base64 is visible ASCII");
        Self {
            body,
            packed: None,
            etag,
        }
    }

    /// Adds a gzip variant, so that the body is compressed once and not per request.
    pub(crate) fn packed(mut self) -> Self {
        if self.body.len() > PACK_ABOVE_BYTES {
            let mut packer = GzEncoder::new(Vec::new(), Compression::default());
            let packed = packer.write_all(&self.body).and_then(|()| packer.finish());
            self.packed = Some(packed.expect("memory takes everything").into());
        }
        self
    }

    /// Builds the response to a request: 304 if `If-None-Match` matches.
    pub(crate) fn respond(&self, request: &HeaderMap) -> Response {
        let mut response = if is_known(request, &self.etag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            self.full(request)
        };
        response
            .headers_mut()
            .insert(header::ETAG, self.etag.clone());
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, FOR_A_SECOND);
        response
    }
}

impl CachedResponse {
    fn full(&self, request: &HeaderMap) -> Response {
        let packed = self.packed.as_ref().filter(|_| takes_gzip(request));
        let body = packed.unwrap_or(&self.body);
        let mut response = Response::new(Body::from(body.clone()));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if packed.is_some() {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        response
    }
}

/// Returns true if `Accept-Encoding` lists gzip with a non-zero quality.
fn takes_gzip(request: &HeaderMap) -> bool {
    request
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|offer| {
            let (coding, weight) = offer.split_once(';').unwrap_or((offer, "q=1"));
            let weight = weight.trim().trim_start_matches("q=");
            coding.trim().eq_ignore_ascii_case("gzip")
                && weight.parse::<f32>().is_ok_and(|weight| weight > 0.0)
        })
}

/// Returns true if `If-None-Match` matches `etag` by weak comparison (RFC 9110 §13.1.2).
pub(crate) fn is_known(request: &HeaderMap, etag: &HeaderValue) -> bool {
    let etag = etag.to_str().unwrap_or_default();
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || opaque(tag) == opaque(etag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_takes_gzip_gets_it() {
        let long = CachedResponse::json(&vec![0; 2_000]).packed();
        let answer = |accepted: Option<&'static str>| {
            let mut request = HeaderMap::new();
            if let Some(accepted) = accepted {
                request.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            }
            let response = long.respond(&request);
            response.headers().contains_key(header::CONTENT_ENCODING)
        };
        let accepted = [
            None,
            Some("br"),
            Some("gzip;q=0"),
            Some("br, gzip"),
            Some("gzip;q=0.5"),
        ];
        assert_eq!(accepted.map(answer), [false, false, false, true, true]);
        assert!(CachedResponse::json(&[1]).packed().packed.is_none());
    }

    #[test]
    fn a_reader_who_has_the_newest_is_told_so() {
        let shared = CachedResponse::json(&[1, 2]);
        let mut request = HeaderMap::new();
        assert_eq!(shared.respond(&request).status(), StatusCode::OK);
        let list = format!("\"other\", {}", shared.etag.to_str().unwrap());
        request.insert(header::IF_NONE_MATCH, HeaderValue::try_from(list).unwrap());
        assert_eq!(shared.respond(&request).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(
            CachedResponse::json(&[3]).respond(&request).status(),
            StatusCode::OK
        );
    }
}
