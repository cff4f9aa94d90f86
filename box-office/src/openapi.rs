//! `GET /openapi.json`: the OpenAPI document, kept as a golden file. Tests compare its paths with
//! the gateway's routes, and its schemas with actual responses. The prose is in `docs/API.md`.

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use bytes::Bytes;
use platform::service::Routes;

use crate::cached_response::CachedResponse;

const DOCUMENT: &[u8] = include_bytes!("../../docs/openapi.json");

/// Serves the embedded document on the public listener.
pub(crate) fn routes() -> Routes {
    let answer = CachedResponse::ready(Bytes::from_static(DOCUMENT));
    let document = async move |headers: HeaderMap| answer.respond(&headers);
    Routes {
        public: Router::new().route("/openapi.json", get(document)),
        ..Routes::default()
    }
}
