//! `GET /openapi.json`: the description of the API for programs. `docs/API.md` is the one for
//! people. Tests hold its paths against what the gateway routes, and its schemas against what is
//! answered.

use axum::Router;
use axum::http::HeaderMap;
use axum::routing::get;
use bytes::Bytes;
use platform::service::Routes;

use crate::shared::Answer;

const DOCUMENT: &[u8] = include_bytes!("../../docs/openapi.json");

/// The route of this part.
pub(crate) fn routes() -> Routes {
    let answer = Answer::ready(Bytes::from_static(DOCUMENT));
    let document = async move |headers: HeaderMap| answer.respond(&headers);
    Routes {
        public: Router::new().route("/openapi.json", get(document)),
        ..Routes::default()
    }
}
