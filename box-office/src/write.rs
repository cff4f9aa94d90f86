//! A change: one transaction with the change itself, its record in the audit log, the messages
//! that tell of it, and the answer for a request that is repeated.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use platform::http::{Json, RawBody};
use platform::idempotency::{self, Begin};
use platform::problem::{Kind, Problem};
use platform::{outbox, pg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::{PgConnection, Postgres, Transaction};

use crate::OWNER;
use crate::fields::invalid;
use crate::office::Office;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const MAX_KEY_BYTES: usize = 255;

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// The database failed; a conflict with another transaction is tried again.
    #[error("the database refused the change")]
    Database(#[from] sqlx::Error),
    /// It is not allowed, for the reason told to the caller.
    #[error("the change is not allowed: {0}")]
    Refused(Problem),
}

impl From<Problem> for WriteError {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Database(error) => error.into(),
            WriteError::Refused(problem) => problem,
        }
    }
}

/// A JSON body, and what tells a repeat of its request from another request.
#[derive(Debug)]
pub(crate) struct Posted<T> {
    /// The body.
    pub(crate) body: T,
    /// How to recognise a repeat.
    pub(crate) repeat: Repeat,
}

/// How a repeat of a request is recognised.
#[derive(Debug)]
pub(crate) struct Repeat {
    key: Option<String>,
    route: String,
    /// By the key of each secret, the current one first.
    hashes: Vec<[u8; 32]>,
}

impl<T: DeserializeOwned> FromRequest<Arc<Office>> for Posted<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, office: &Arc<Office>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let raw = Request::from_parts(parts.clone(), body);
        let RawBody(bytes) = RawBody::from_request(raw, office).await?;
        // The body may hold a password, so what is stored of it must not help to guess one.
        let secrets = office.ctx.keys.derive_each("idempotency");
        let hash = |secret: &[u8; 32]| idempotency::request_hash(&[secret, &bytes]);
        let repeat = Repeat {
            key: key_of(&parts.headers)?,
            route: format!("{} {}", parts.method, parts.uri.path()),
            hashes: secrets.iter().map(hash).collect(),
        };
        let again = Request::from_parts(parts, Body::from(bytes));
        let Json(body) = Json::from_request(again, office).await?;
        Ok(Self { body, repeat })
    }
}

fn key_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = value.to_str().unwrap_or_default();
    if (1..=MAX_KEY_BYTES).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(Some(key.to_owned()));
    }
    Err(invalid(
        "Idempotency-Key",
        format!("1 to {MAX_KEY_BYTES} visible ASCII characters."),
    ))
}

/// What a change came to.
#[derive(Debug)]
pub(crate) struct Done<T> {
    /// The outcome; of a repeated request, that of the first.
    pub(crate) value: T,
    is_replay: bool,
}

impl<T> Done<T> {
    /// Whether a repeated request got the outcome of the first.
    pub(crate) fn is_replay(&self) -> bool {
        self.is_replay
    }

    /// The outcome in another form.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Done<U> {
        Done {
            value: change(self.value),
            is_replay: self.is_replay,
        }
    }

    /// The outcome in another form, or a refusal.
    pub(crate) fn try_map<U>(
        self,
        change: impl FnOnce(T) -> Result<U, Problem>,
    ) -> Result<Done<U>, Problem> {
        Ok(Done {
            value: change(self.value)?,
            is_replay: self.is_replay,
        })
    }
}

impl<T, U> Done<(T, U)> {
    /// Both parts of the outcome.
    pub(crate) fn split(self) -> (Done<T>, U) {
        let (value, rest) = self.value;
        let is_replay = self.is_replay;
        (Done { value, is_replay }, rest)
    }
}

impl<T: Serialize> Done<T> {
    /// The answer to the caller alone.
    pub(crate) fn respond(self, status: StatusCode) -> Response {
        let mut response = (status, Json(self.value)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.is_replay {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// The work of one transaction: a future that borrows the transaction, and what the caller has.
pub(crate) type Work<'c, T> = BoxFuture<'c, Result<T, WriteError>>;

impl Office {
    /// Runs `work` in a transaction, and wakes the outbox when it is committed. With an
    /// `Idempotency-Key`, a repeat by the same `caller` gets the first outcome. `work` may run
    /// more than once; only one run is committed.
    ///
    /// # Errors
    /// What `work` refuses, a key that was used for another request or whose first request still
    /// runs, and what the database says.
    pub(crate) async fn write<'env, T: Serialize + DeserializeOwned + Send>(
        &'env self,
        name: &'static str,
        caller: &'env str,
        repeat: &'env Repeat,
        work: &'env (impl for<'c> Fn(&'c mut Transaction<'env, Postgres>) -> Work<'c, T> + Sync),
    ) -> Result<Done<T>, Problem> {
        let now = self.ctx.clock.now();
        let done = pg::run_tx(&self.ctx.db, name, |tx| {
            Box::pin(async move {
                let Some(key) = &repeat.key else {
                    return Ok(Done {
                        value: work(tx).await?,
                        is_replay: false,
                    });
                };
                let scope = format!("{caller} {}", repeat.route);
                match begin(tx, &scope, key, &repeat.hashes, now).await? {
                    Begin::Fresh(token) => {
                        let value = work(tx).await?;
                        let body = serde_json::to_vec(&value).map_err(encode)?;
                        idempotency::finish(tx, token, StatusCode::OK.as_u16(), &body).await?;
                        Ok(Done {
                            value,
                            is_replay: false,
                        })
                    }
                    Begin::Replay { body, .. } => {
                        let value =
                            serde_json::from_slice(&body).map_err(|error| decode(&error))?;
                        Ok(Done {
                            value,
                            is_replay: true,
                        })
                    }
                    Begin::Mismatch => Err(refused(Kind::IdempotencyKeyReused)),
                    Begin::InProgress => Err(refused(Kind::IdempotencyKeyInProgress)),
                }
            })
        })
        .await?;
        outbox::wake(OWNER);
        Ok(done)
    }
}

/// Looks the key up. A request that was begun under an older secret is recognised by that one.
async fn begin(
    tx: &mut PgConnection,
    scope: &str,
    key: &str,
    hashes: &[[u8; 32]],
    now: DateTime<Utc>,
) -> Result<Begin, sqlx::Error> {
    let mut begun = Begin::Mismatch;
    for hash in hashes {
        begun = idempotency::begin(&mut *tx, scope, key, hash, now).await?;
        if begun != Begin::Mismatch {
            break;
        }
    }
    Ok(begun)
}

fn encode(error: serde_json::Error) -> WriteError {
    sqlx::Error::Encode(Box::new(error)).into()
}

/// An answer that another version of the program kept: the request was done, and must not be again.
fn decode(error: &serde_json::Error) -> WriteError {
    let error: &(dyn std::error::Error + 'static) = error;
    tracing::warn!(error, "a kept answer can't be read");
    Problem::new(
        Kind::Conflict,
        "The first request with this key was done, and its answer is not known any more. Look at \
         what it made.",
    )
    .into()
}

fn refused(kind: Kind) -> WriteError {
    let problem = match kind {
        Kind::IdempotencyKeyReused => {
            Problem::new(kind, "Use a new Idempotency-Key for a new request.")
        }
        _ => Problem::new(
            kind,
            "The first request with this key still runs; repeat it in a moment.",
        )
        .retry_after(Duration::from_secs(1)),
    };
    problem.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: &str) -> Result<Option<String>, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(value).unwrap());
        key_of(&headers)
    }

    #[test]
    fn a_key_is_visible_ascii_of_a_bounded_length() {
        assert_eq!(key_of(&HeaderMap::new()).unwrap(), None);
        assert_eq!(key("a-1").unwrap().as_deref(), Some("a-1"));
        for value in ["", "a b", &"k".repeat(256)] {
            assert!(key(value).is_err(), "{value:?} passed");
        }
    }
}
