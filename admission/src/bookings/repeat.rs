//! `Idempotency-Key`: replaying the first response to a repeat.

use axum::body::{Body, to_bytes};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use platform::idempotency::{self, Answered, Begin, Token};
use platform::problem::Problem;
use sqlx::PgPool;

use super::writer::RequestWriter;

/// Exceeds the size of any response to a booking request.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// The response to a request whose key was used before.
pub(super) fn answer(begin: Begin) -> Result<Response, Problem> {
    match begin {
        Begin::Replay { status, body } => Ok(replay(status, body)),
        Begin::Mismatch => Err(idempotency::reused()),
        Begin::Fresh(_) | Begin::InProgress => Err(idempotency::in_progress()),
    }
}

fn replay(status: u16, body: Vec<u8>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let media_type = if status.is_success() {
        "application/json"
    } else {
        "application/problem+json"
    };
    let mut response = (status, body).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("idempotent-replayed", HeaderValue::from_static("true"));
    response
}

/// Stores `response` for replay, and returns it. If storing fails the response is still sent, and
/// a repeat runs again with the same booking id.
pub(super) async fn store(writer: &RequestWriter, token: Token, response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let Ok(body) = to_bytes(body, MAX_ANSWER_BYTES).await else {
        unreachable!("the body is in memory and short");
    };
    let answered = Answered {
        token,
        status: parts.status.as_u16(),
        body: body.to_vec(),
    };
    if let Err(error) = writer.store_answer(answered).await {
        tracing::error!(%error, "failed to store a booking response for replay");
    }
    Response::from_parts(parts, Body::from(body))
}

/// Releases the key of a request that changed nothing.
pub(super) async fn abandon(db: &PgPool, token: Token) -> Result<(), sqlx::Error> {
    let mut conn = db.acquire().await?;
    idempotency::abandon(&mut conn, token).await
}
