//! Compression of long responses. Short ones, which nearly all are, don't even go through the
//! compressor.

use axum::body::Body;
use axum::extract::Request;
use axum::http::HeaderValue;
use axum::http::header::ACCEPT_ENCODING;
use axum::response::Response;
use futures_util::future::ready;
use tower::{Layer, ServiceExt, service_fn};
use tower_http::compression::predicate::{NotForContentType, Predicate, SizeAbove};
use tower_http::compression::{CompressionLayer, CompressionLevel};

/// Bodies up to it are sent as they are: compressing them costs more than it saves.
const COMPRESS_ABOVE_BYTES: u64 = 1_024;

fn is_for_compression() -> impl Predicate {
    SizeAbove::new(COMPRESS_ABOVE_BYTES).and(NotForContentType::SSE)
}

/// `response`, compressed if it is long and the caller `accepts` it.
pub(super) async fn compress(accepts: Option<HeaderValue>, response: Response) -> Response {
    if !is_for_compression().should_compress(&response) {
        return response;
    }
    let mut request = Request::new(Body::empty());
    if let Some(accepts) = accepts {
        request.headers_mut().insert(ACCEPT_ENCODING, accepts);
    }
    let mut response = Some(response);
    let answer = service_fn(move |_: Request| {
        let answer = response.take().expect("the service is called once");
        ready(Ok::<_, std::convert::Infallible>(answer))
    });
    let compressor = CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(is_for_compression())
        .layer(answer);
    match compressor.oneshot(request).await {
        Ok(compressed) => compressed.map(Body::new),
        Err(never) => match never {},
    }
}
