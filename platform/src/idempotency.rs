//! Idempotency keys: a repeated request replays the first response.
//!
//! [`begin`] and [`finish`] run in the caller's transactions. Where the work is a change in the
//! database alone, both belong in its transaction, so that response and change commit together.
//! Where it calls another server, commit after [`begin`], call, and [`finish`] in a second
//! transaction: if the process dies in between, a repeat may run the request again after
//! [`RUNNING_LIMIT`], so the call must itself be repeatable.

use std::collections::HashMap;
use std::time::Duration;

use axum::http::HeaderMap;
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::problem::{Kind, Problem};

/// Retention of stored responses; a key may be reused afterwards.
pub const RETENTION: TimeDelta = TimeDelta::hours(24);
/// Age at which a request without a response counts as crashed. Above the request timeout.
pub const RUNNING_LIMIT: TimeDelta = TimeDelta::seconds(15);
/// Most expired rows that one sweep deletes.
const SWEEP_LIMIT: i64 = 10_000;

/// `Retry-After` while the first request is running.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The longest key, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// The `Idempotency-Key` of a request, if it carries one.
///
/// # Errors
/// `invalid` when it is not visible ASCII of a bounded length.
pub fn key_of(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let key = value.to_str().unwrap_or_default();
    let is_visible = key.bytes().all(|byte| byte.is_ascii_graphic());
    if key.is_empty() || key.len() > MAX_KEY_BYTES || !is_visible {
        let detail = "Idempotency-Key must be 1 to 255 visible ASCII characters.";
        return Err(Problem::new(Kind::Invalid, detail).with("field", "Idempotency-Key"));
    }
    Ok(Some(key))
}

/// The `Idempotency-Key` of a request to a route that requires one.
///
/// # Errors
/// `malformed` (400) without a key, else as [`key_of`].
pub fn required_key_of(headers: &HeaderMap) -> Result<&str, Problem> {
    key_of(headers)?.ok_or_else(|| {
        Problem::new(
            Kind::Malformed,
            "This request needs an Idempotency-Key, so that a repeat is not executed twice.",
        )
    })
}

/// The problem of [`Begin::Mismatch`] (422).
#[must_use]
pub fn reused() -> Problem {
    Problem::new(
        Kind::IdempotencyKeyReused,
        "Use a new Idempotency-Key for a new request.",
    )
}

/// The problem of [`Begin::InProgress`] (409).
#[must_use]
pub fn in_progress() -> Problem {
    Problem::new(
        Kind::IdempotencyKeyInProgress,
        "The first request with this key is still running. Repeat it in a moment.",
    )
    .retry_after(RETRY_AFTER)
}

/// The state of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// It was claimed: handle the request, then [`finish`] or [`abandon`].
    Fresh(Token),
    /// It was answered: replay the response.
    Replay {
        /// HTTP status.
        status: u16,
        /// Body.
        body: Vec<u8>,
    },
    /// The key was used for another request.
    Mismatch,
    /// The first request with this key is still running.
    InProgress,
}

/// The right to finish one run of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "finish or abandon it, or repeats are answered for a while that it still runs"]
pub struct Token {
    scope: String,
    key: String,
    attempt: Uuid,
}

/// The fingerprint of a request: SHA-256 over its parts, each prefixed with its length.
#[must_use]
pub fn request_hash(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in parts {
        let length = u64::try_from(part.len()).expect("a length fits 64 bits");
        hash.update(length.to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// A request that carries a key.
#[derive(Debug, Clone, Copy)]
pub struct Keyed<'a> {
    /// The caller and the route.
    pub scope: &'a str,
    /// The key as the client sent it.
    pub key: &'a str,
    /// The fingerprint of the request, from [`request_hash`].
    pub request_hash: [u8; 32],
}

/// Claims `key`, or returns its state when it is held. `scope` names the caller and the route.
///
/// # Errors
/// When the database fails.
pub async fn begin(
    conn: &mut PgConnection,
    scope: &str,
    key: &str,
    request_hash: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<Begin, sqlx::Error> {
    let request = Keyed {
        scope,
        key,
        request_hash: *request_hash,
    };
    let mut begun = begin_all(conn, &[request], now).await?;
    Ok(begun.pop().expect("one answer for each request"))
}

/// [`begin`] for many requests at once, no two of which have the same scope and key.
///
/// # Errors
/// When the database fails.
pub async fn begin_all(
    conn: &mut PgConnection,
    requests: &[Keyed<'_>],
    now: DateTime<Utc>,
) -> Result<Vec<Begin>, sqlx::Error> {
    let mut taken = take(conn, requests, now).await?;
    let rest: Vec<_> = requests
        .iter()
        .filter(|request| !taken.contains_key(&request.id()))
        .collect();
    let held = look_up(conn, &rest).await?;
    let begin = |request: &Keyed<'_>| match taken.remove(&request.id()) {
        Some(attempt) => Begin::Fresh(Token {
            scope: request.scope.to_owned(),
            key: request.key.to_owned(),
            attempt,
        }),
        // Without a row it runs in another transaction, or was abandoned this moment: then the
        // client will find it free.
        None => held
            .get(&request.id())
            .map_or(Begin::InProgress, |held| held.answer(request)),
    };
    Ok(requests.iter().map(begin).collect())
}

type Id = (String, String);

impl Keyed<'_> {
    fn id(&self) -> Id {
        (self.scope.to_owned(), self.key.to_owned())
    }
}

/// Claims keys that are new, expired, or left by a crash of the same request. A key that another
/// transaction is claiming is skipped instead of waited for.
async fn take(
    conn: &mut PgConnection,
    requests: &[Keyed<'_>],
    now: DateTime<Utc>,
) -> Result<HashMap<Id, Uuid>, sqlx::Error> {
    let (scopes, keys) = ids(requests.iter());
    let hashes: Vec<_> = requests
        .iter()
        .map(|request| request.request_hash.to_vec())
        .collect();
    let attempts: Vec<_> = requests.iter().map(|_| Uuid::new_v4()).collect();
    let rows = sqlx::query!(
        "WITH alone AS MATERIALIZED (
             SELECT scope, key, request_hash, attempt
             FROM unnest($1::text[], $2::text[], $3::bytea[], $4::uuid[])
                 AS wanted (scope, key, request_hash, attempt)
             WHERE pg_try_advisory_xact_lock(hashtextextended(scope || chr(10) || key, 0))
         )
         INSERT INTO platform.idempotency_keys AS held
             (scope, key, request_hash, attempt, running_until, expires_at)
         SELECT scope, key, request_hash, attempt, $5, $6 FROM alone ORDER BY scope, key
         ON CONFLICT (scope, key) DO UPDATE
         SET request_hash = excluded.request_hash, attempt = excluded.attempt,
             status = NULL, body = NULL,
             running_until = excluded.running_until, expires_at = excluded.expires_at
         WHERE held.expires_at <= $7
             OR (held.status IS NULL AND held.running_until <= $7
                 AND held.request_hash = excluded.request_hash)
         RETURNING scope, key, attempt",
        &scopes,
        &keys,
        &hashes,
        &attempts,
        now + RUNNING_LIMIT,
        now + RETENTION,
        now,
    )
    .fetch_all(conn)
    .await?;
    let taken = rows
        .into_iter()
        .map(|row| ((row.scope, row.key), row.attempt));
    Ok(taken.collect())
}

/// A key that was claimed before.
struct Held {
    request_hash: Vec<u8>,
    answer: Option<(u16, Vec<u8>)>,
}

impl Held {
    fn answer(&self, request: &Keyed<'_>) -> Begin {
        match &self.answer {
            _ if self.request_hash != request.request_hash => Begin::Mismatch,
            None => Begin::InProgress,
            Some((status, body)) => Begin::Replay {
                status: *status,
                body: body.clone(),
            },
        }
    }
}

async fn look_up(
    conn: &mut PgConnection,
    requests: &[&Keyed<'_>],
) -> Result<HashMap<Id, Held>, sqlx::Error> {
    if requests.is_empty() {
        return Ok(HashMap::new());
    }
    let (scopes, keys) = ids(requests.iter().copied());
    let rows = sqlx::query!(
        "SELECT scope, key, request_hash, status, body FROM platform.idempotency_keys
         WHERE (scope, key) IN (SELECT * FROM unnest($1::text[], $2::text[]))",
        &scopes,
        &keys,
    )
    .fetch_all(conn)
    .await?;
    let held = rows.into_iter().map(|row| {
        let status = row.status.and_then(|status| u16::try_from(status).ok());
        let held = Held {
            request_hash: row.request_hash,
            answer: status.zip(row.body),
        };
        ((row.scope, row.key), held)
    });
    Ok(held.collect())
}

fn ids<'a>(requests: impl Iterator<Item = &'a Keyed<'a>>) -> (Vec<String>, Vec<String>) {
    requests.map(Keyed::id).unzip()
}

/// An answer, and the run that it is of.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The run.
    pub token: Token,
    /// HTTP status.
    pub status: u16,
    /// Body.
    pub body: Vec<u8>,
}

/// [`finish`] for many requests at once.
///
/// # Errors
/// When the database fails.
pub async fn finish_all(
    conn: &mut PgConnection,
    answers: Vec<Answered>,
) -> Result<(), sqlx::Error> {
    let (mut scopes, mut keys, mut attempts) = (Vec::new(), Vec::new(), Vec::new());
    let (mut statuses, mut bodies) = (Vec::new(), Vec::new());
    for Answered {
        token,
        status,
        body,
    } in answers
    {
        scopes.push(token.scope);
        keys.push(token.key);
        attempts.push(token.attempt);
        statuses.push(i16::try_from(status).map_err(|error| sqlx::Error::Encode(Box::new(error)))?);
        bodies.push(body);
    }
    sqlx::query!(
        "UPDATE platform.idempotency_keys AS held SET status = given.status, body = given.body
         FROM unnest($1::text[], $2::text[], $3::uuid[], $4::smallint[], $5::bytea[])
             AS given (scope, key, attempt, status, body)
         WHERE held.scope = given.scope AND held.key = given.key AND held.attempt = given.attempt
             AND held.status IS NULL",
        &scopes,
        &keys,
        &attempts,
        &statuses,
        &bodies,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores the answer. `false` when another run has taken the key over because this one took too
/// long: its answer will be the one that is replayed.
///
/// # Errors
/// When the database fails.
pub async fn finish(
    conn: &mut PgConnection,
    token: Token,
    status: u16,
    body: &[u8],
) -> Result<bool, sqlx::Error> {
    let status = i16::try_from(status).map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
    let done = sqlx::query!(
        "UPDATE platform.idempotency_keys SET status = $4, body = $5
         WHERE scope = $1 AND key = $2 AND attempt = $3 AND status IS NULL",
        token.scope,
        token.key,
        token.attempt,
        status,
        body,
    )
    .execute(conn)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Frees the key, for a request that changed nothing and may be tried again.
///
/// # Errors
/// When the database fails.
pub async fn abandon(conn: &mut PgConnection, token: Token) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "DELETE FROM platform.idempotency_keys
         WHERE scope = $1 AND key = $2 AND attempt = $3 AND status IS NULL",
        token.scope,
        token.key,
        token.attempt,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Deletes up to 10,000 expired keys, and returns their number.
///
/// # Errors
/// When the database fails.
pub async fn sweep(pool: &PgPool, now: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let swept = sqlx::query!(
        "DELETE FROM platform.idempotency_keys WHERE (scope, key) IN (
             SELECT scope, key FROM platform.idempotency_keys
             WHERE expires_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED
         )",
        now,
        SWEEP_LIMIT,
    )
    .execute(pool)
    .await?;
    Ok(swept.rows_affected())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderValue, StatusCode};

    use super::*;

    #[test]
    fn a_key_is_visible_ascii_of_a_bounded_length() {
        let mut headers = HeaderMap::new();
        assert_eq!(key_of(&headers).unwrap(), None);
        let missing = required_key_of(&headers).unwrap_err();
        assert_eq!(missing.kind().status(), StatusCode::BAD_REQUEST);
        let longest = "k".repeat(MAX_KEY_BYTES);
        for key in ["a-1", &longest] {
            headers.insert("idempotency-key", HeaderValue::from_str(key).unwrap());
            assert_eq!(required_key_of(&headers).unwrap(), key);
        }
        for key in ["", "a b", "ä", &format!("{longest}k")] {
            headers.insert("idempotency-key", HeaderValue::from_str(key).unwrap());
            let refused = key_of(&headers).unwrap_err();
            assert_eq!(refused.kind(), Kind::Invalid, "{key:?} passed");
        }
    }

    #[test]
    fn requests_that_differ_only_in_where_a_part_ends_have_different_hashes() {
        assert_ne!(request_hash(&[b"ab", b"c"]), request_hash(&[b"a", b"bc"]));
    }
}
