//! Transactional writes with idempotency keys: one transaction holds the change, its audit entry,
//! its outbox messages and the outcome that is replayed for a repeated request.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use platform::http::{Json, RawBody};
use platform::idempotency::{self, Begin};
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use platform::{outbox, pg};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::{PgConnection, Postgres, Transaction};

use crate::OWNER;

use crate::state::AppState;

const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Extractor of a JSON body together with the request's identity for idempotency.
#[derive(Debug)]
pub(crate) struct Posted<T> {
    pub(crate) body: T,
    /// Identity of the request.
    pub(crate) repeat: Repeat,
}

/// Identity of a request: its idempotency key, route, and keyed hashes of its body.
#[derive(Debug)]
pub(crate) struct Repeat {
    key: Option<String>,
    route: String,
    /// One hash per service secret, the current one first.
    hashes: Vec<[u8; 32]>,
}

impl<T: DeserializeOwned> FromRequest<Arc<AppState>> for Posted<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &Arc<AppState>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let raw = Request::from_parts(parts.clone(), body);
        let RawBody(bytes) = RawBody::from_request(raw, state).await?;
        // The body may hold a password, so the stored hash is keyed.
        let secrets = state.ctx.keys.derive_each("idempotency");
        let hash = |secret: &[u8; 32]| idempotency::request_hash(&[secret, &bytes]);
        let repeat = Repeat {
            key: idempotency::key_of(&parts.headers)?.map(str::to_owned),
            route: format!("{} {}", parts.method, parts.uri.path()),
            hashes: secrets.iter().map(hash).collect(),
        };
        let again = Request::from_parts(parts, Body::from(bytes));
        let Json(body) = Json::from_request(again, state).await?;
        Ok(Self { body, repeat })
    }
}

/// The outcome of a write.
#[derive(Debug)]
pub(crate) struct Done<T> {
    /// The value; for a repeated request, that of the first.
    pub(crate) value: T,
    is_replay: bool,
}

impl<T> Done<T> {
    /// Returns true if the value was replayed for a repeated request.
    pub(crate) fn is_replay(&self) -> bool {
        self.is_replay
    }

    /// Maps the value.
    pub(crate) fn map<U>(self, change: impl FnOnce(T) -> U) -> Done<U> {
        Done {
            value: change(self.value),
            is_replay: self.is_replay,
        }
    }

    /// Maps the value, or fails with a problem.
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
    /// Splits a pair; the first part keeps the replay flag.
    pub(crate) fn split(self) -> (Done<T>, U) {
        let (value, rest) = self.value;
        let is_replay = self.is_replay;
        (Done { value, is_replay }, rest)
    }
}

impl<T: Serialize> Done<T> {
    /// Builds the response, not to be stored by caches. Replays carry `Idempotent-Replayed: true`.
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

/// Future of the work done in one transaction, which borrows the transaction.
pub(crate) type WriteFuture<'c, T> = BoxFuture<'c, Result<T, Refusal>>;

impl AppState {
    /// Runs `work` in a transaction, and wakes the outbox relay on commit. With an
    /// `Idempotency-Key`, a repeat by the same `caller` gets the stored outcome of the first
    /// request. `work` may run more than once; at most one run is committed.
    ///
    /// # Errors
    /// The refusal of `work`, `idempotency-key-reused`, `idempotency-key-in-progress`, or a failure
    /// of the database.
    pub(crate) async fn write<'env, T: Serialize + DeserializeOwned + Send>(
        &'env self,
        name: &'static str,
        caller: &'env str,
        repeat: &'env Repeat,
        work: &'env (impl for<'c> Fn(&'c mut Transaction<'env, Postgres>) -> WriteFuture<'c, T> + Sync),
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
                    Begin::Mismatch => Err(Refusal::Refused(idempotency::reused())),
                    Begin::InProgress => Err(Refusal::Refused(idempotency::in_progress())),
                }
            })
        })
        .await?;
        outbox::wake(OWNER);
        Ok(done)
    }
}

/// Begins a request under its key. A request whose hash was stored under an older secret is matched
/// by that secret's hash.
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

fn encode(error: serde_json::Error) -> Refusal {
    sqlx::Error::Encode(Box::new(error)).into()
}

/// Refuses a repeat whose stored outcome was written by another version and can't be decoded: the
/// request has been executed and must not be executed again.
fn decode(error: &serde_json::Error) -> Refusal {
    let error: &(dyn std::error::Error + 'static) = error;
    tracing::warn!(
        error,
        "failed to decode stored outcome of idempotent request"
    );
    Problem::new(
        Kind::Conflict,
        "The first request with this key was executed, but its response is no longer available.",
    )
    .into()
}
