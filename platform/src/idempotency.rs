//! The same request again gives the same answer.
//!
//! [`begin`] and [`finish`] run in the caller's transactions. Where the work is a change in the
//! database alone, both belong in its transaction: the answer and the change stand or fall
//! together. Where it calls another server, commit after [`begin`], call, and [`finish`] in a
//! second transaction: if the process dies in between, a repeat may run the request again after
//! [`RUNNING_LIMIT`], so the call must itself be repeatable.

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// How long answers are kept.
pub const KEPT: TimeDelta = TimeDelta::hours(24);
/// After this a request without an answer is taken for crashed; longer than a request may take.
pub const RUNNING_LIMIT: TimeDelta = TimeDelta::seconds(15);
/// How many expired rows one sweep removes.
const SWEEP_LIMIT: i64 = 10_000;

/// What a key says about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// It is the first: do it, then [`finish`] or [`abandon`].
    Fresh(Token),
    /// It was answered: give the same answer.
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
#[must_use = "finish or abandon it, or repeats will be told for a while that it still runs"]
pub struct Token {
    scope: String,
    key: String,
    attempt: Uuid,
}

/// What tells one request from another: SHA-256 over its parts, each with its length.
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

/// Looks `key` up, and takes it when it is free. `scope` names the caller and the route.
///
/// # Errors
/// What the database says.
pub async fn begin(
    conn: &mut PgConnection,
    scope: &str,
    key: &str,
    request_hash: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<Begin, sqlx::Error> {
    // Inserting would wait for another transaction that has inserted; this does not.
    let is_alone = sqlx::query_scalar!(
        "SELECT pg_try_advisory_xact_lock(hashtextextended($1 || chr(10) || $2, 0)) AS \"alone!\"",
        scope,
        key,
    )
    .fetch_one(&mut *conn)
    .await?;
    if !is_alone {
        return Ok(Begin::InProgress);
    }
    match take(conn, scope, key, request_hash, now).await? {
        Some(token) => Ok(Begin::Fresh(token)),
        None => look_up(conn, scope, key, request_hash).await,
    }
}

/// Takes a key that is new, expired, or left behind by a crash of the same request.
async fn take(
    conn: &mut PgConnection,
    scope: &str,
    key: &str,
    request_hash: &[u8; 32],
    now: DateTime<Utc>,
) -> Result<Option<Token>, sqlx::Error> {
    let attempt = Uuid::new_v4();
    let taken = sqlx::query!(
        "INSERT INTO platform.idempotency_keys AS held
             (scope, key, request_hash, attempt, running_until, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (scope, key) DO UPDATE
         SET request_hash = excluded.request_hash, attempt = excluded.attempt,
             status = NULL, body = NULL,
             running_until = excluded.running_until, expires_at = excluded.expires_at
         WHERE held.expires_at <= $7
             OR (held.status IS NULL AND held.running_until <= $7
                 AND held.request_hash = excluded.request_hash)",
        scope,
        key,
        request_hash.as_slice(),
        attempt,
        now + RUNNING_LIMIT,
        now + KEPT,
        now,
    )
    .execute(conn)
    .await?;
    let token = Token {
        scope: scope.to_owned(),
        key: key.to_owned(),
        attempt,
    };
    Ok((taken.rows_affected() == 1).then_some(token))
}

async fn look_up(
    conn: &mut PgConnection,
    scope: &str,
    key: &str,
    request_hash: &[u8; 32],
) -> Result<Begin, sqlx::Error> {
    let held = sqlx::query!(
        "SELECT request_hash, status, body FROM platform.idempotency_keys
         WHERE scope = $1 AND key = $2",
        scope,
        key,
    )
    .fetch_optional(conn)
    .await?;
    Ok(match held {
        // Abandoned this moment: the client will find it free.
        None => Begin::InProgress,
        Some(held) if held.request_hash != request_hash => Begin::Mismatch,
        Some(held) => match (
            held.status.and_then(|status| u16::try_from(status).ok()),
            held.body,
        ) {
            (Some(status), Some(body)) => Begin::Replay { status, body },
            _ => Begin::InProgress,
        },
    })
}

/// Stores the answer. `false` when another run has taken the key over because this one took too
/// long: its answer will be the one that is replayed.
///
/// # Errors
/// What the database says.
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
/// What the database says.
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

/// Removes expired keys, 10,000 at most, and tells how many.
///
/// # Errors
/// What the database says.
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
    use super::*;

    #[test]
    fn requests_that_differ_only_in_where_a_part_ends_have_different_hashes() {
        assert_ne!(request_hash(&[b"ab", b"c"]), request_hash(&[b"a", b"bc"]));
    }
}
