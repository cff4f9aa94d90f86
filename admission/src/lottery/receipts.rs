//! `GET /api/events/{id}/queue/lottery`: everything needed to verify the lottery offline.
//!
//! The JSON has `lottery`, the signed draw, and `entries`, the pseudonym behind each number from 1
//! on, null for a number that nobody held. The signed part contains the digest of the entries, so
//! that they can't be changed afterwards either. A million entries are some 25 MB, so the body is
//! streamed in chunks.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::lottery::Entry;
use domain::token::{ISSUER, LotteryClaims, sale_audience};
use domain::{EventId, hex};
use futures_util::stream::{self, Stream, StreamExt as _};
use platform::http::Path;
use platform::problem::{Kind, Problem};
use sqlx::PgPool;
use tokio::sync::{Semaphore, mpsc};

use super::store::{self, CHUNK, Draw, NOBODY};
use crate::state::AppState;

/// The draw is immutable, but the key that signs it may be rotated.
const CACHED: HeaderValue = HeaderValue::from_static("public, max-age=3600");

/// Returns the signed draw and its entries.
///
/// # Errors
/// `not-found`, and `conflict` before the draw.
pub(super) async fn receipts(
    State(state): State<Arc<AppState>>,
    Path(event_id): Path<EventId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let draw = store::drawn(&state.ctx.db, event_id).await?;
    let draw = draw
        .ok_or_else(|| Problem::new(Kind::NotFound, "There is no sale of this event."))?
        .ok_or_else(|| {
            Problem::new(
                Kind::Conflict,
                "The lottery has not been drawn yet. Its commitment is in the queue's snapshot.",
            )
        })?;
    let signed = state.ctx.keys.sign_lottery(&claims(event_id, &draw));
    let (_, signature) = signed.rsplit_once('.').expect("a token has three parts");
    let etag = HeaderValue::try_from(format!("\"{signature}\"")).expect("base64url in quotes");
    let caching = [(CACHE_CONTROL, CACHED), (ETAG, etag.clone())];
    if headers.get(IF_NONE_MATCH) == Some(&etag) {
        return Ok((StatusCode::NOT_MODIFIED, caching).into_response());
    }
    let permit = READERS.try_acquire().map_err(|_| {
        Problem::new(
            Kind::Overloaded,
            "Too many receipts are being read; try again in a moment.",
        )
        .retry_after(PIECE_LIMIT)
    })?;
    let json = HeaderValue::from_static("application/json");
    let pieces = pieces(state.ctx.db.clone(), event_id, draw.lobby, &signed);
    let body = Body::from_stream(paced(pieces, permit, PIECE_LIMIT));
    Ok((caching, [(CONTENT_TYPE, json)], body).into_response())
}

/// Bound on concurrent readers of receipts on this node.
const MAX_READERS: usize = 64;
static READERS: Semaphore = Semaphore::const_new(MAX_READERS);
/// A client must take this many bytes within [`PIECE_LIMIT`], which is 13 kB a second.
const PIECE_BYTES: usize = 64 * 1_024;
const PIECE_LIMIT: Duration = Duration::from_secs(5);

/// An item of the channel between the reading task and the response body.
enum BodyFrame {
    Piece(Result<Bytes, sqlx::Error>),
    /// The body is complete.
    End,
}

/// Streams the pieces with backpressure. A client that takes longer than `limit` for one is cut
/// off, which releases the memory and `permit` held for it.
fn paced<S, P>(
    pieces: S,
    permit: P,
    limit: Duration,
) -> impl Stream<Item = Result<Bytes, io::Error>>
where
    S: Stream<Item = Result<Bytes, sqlx::Error>> + Send + 'static,
    P: Send + 'static,
{
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let _permit = permit;
        let mut pieces = std::pin::pin!(pieces);
        while let Some(piece) = pieces.next().await {
            for part in parts(piece) {
                let sending = sender.send(BodyFrame::Piece(part));
                if !matches!(tokio::time::timeout(limit, sending).await, Ok(Ok(()))) {
                    return;
                }
            }
        }
        let _closed = tokio::time::timeout(limit, sender.send(BodyFrame::End)).await;
    });
    stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(BodyFrame::Piece(Ok(bytes))) => Some((Ok(bytes), Some(receiver))),
            Some(BodyFrame::Piece(Err(error))) => Some((Err(io::Error::other(error)), None)),
            Some(BodyFrame::End) => None,
            None => Some((Err(io::ErrorKind::TimedOut.into()), None)),
        }
    })
}

fn parts(piece: Result<Bytes, sqlx::Error>) -> Vec<Result<Bytes, sqlx::Error>> {
    let bytes = match piece {
        Ok(bytes) => bytes,
        Err(error) => return vec![Err(error)],
    };
    let starts = (0..bytes.len()).step_by(PIECE_BYTES);
    starts
        .map(|start| Ok(bytes.slice(start..bytes.len().min(start + PIECE_BYTES))))
        .collect()
}

fn claims(event_id: EventId, draw: &Draw) -> LotteryClaims {
    LotteryClaims {
        iss: ISSUER.to_owned(),
        aud: sale_audience(event_id),
        iat: draw.drawn_at.timestamp(),
        commitment: hex::encode(&draw.commitment),
        committed_at: draw.committed_at,
        lobby: draw.lobby,
        entries: draw.entries,
        entries_digest: hex::encode(&draw.entries_digest),
        fixed_at: draw.fixed_at,
        entropy_source: draw.entropy_source.clone(),
        entropy: draw.entropy.clone(),
        seed: hex::encode(&draw.seed),
    }
}

/// Streams the body's JSON. No connection is held while the client takes a piece.
fn pieces(
    db: PgPool,
    event_id: EventId,
    lobby: i64,
    signed: &str,
) -> impl Stream<Item = Result<Bytes, sqlx::Error>> + use<> {
    let head = format!("{{\"lottery\":\"{signed}\",\"entries\":[");
    stream::try_unfold((Some(head), 1), move |(head, first)| {
        let db = db.clone();
        async move {
            if let Some(head) = head {
                return Ok(Some((head.into(), (None, first))));
            }
            if first > lobby.max(1) {
                return Ok(None);
            }
            let count = (lobby - first + 1).clamp(0, CHUNK);
            let names = store::names(&db, event_id, first).await?;
            let mut piece = entries(&names, count, first == 1);
            if first + CHUNK > lobby {
                piece.push_str("]}\n");
            }
            Ok(Some((piece.into(), (None, first + CHUNK))))
        }
    })
}

fn entries(names: &[u8], count: i64, is_first: bool) -> String {
    const WRITTEN_BYTES: usize = 25;
    let count = usize::try_from(count).expect("not negative");
    let names = names.chunks_exact(Entry::BYTES);
    let names = names.map(|name| Entry(name.try_into().expect("a chunk of that size")));
    let mut json = String::with_capacity(count * WRITTEN_BYTES);
    for (at, entry) in names
        .chain(std::iter::repeat(NOBODY))
        .take(count)
        .enumerate()
    {
        if at > 0 || !is_first {
            json.push(',');
        }
        if entry == NOBODY {
            json.push_str("null");
        } else {
            json.push('"');
            json.push_str(&entry.to_string());
            json.push('"');
        }
    }
    json
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(bytes: usize) -> Result<Bytes, sqlx::Error> {
        Ok(vec![b'x'; bytes].into())
    }

    #[tokio::test]
    async fn a_reader_who_takes_every_piece_in_time_gets_all() {
        let pieces = stream::iter([piece(200_000), piece(0), piece(7)]);
        let read: Vec<_> = paced(pieces, (), Duration::from_secs(60)).collect().await;
        let sizes: Vec<usize> = read
            .iter()
            .map(|part| part.as_ref().unwrap().len())
            .collect();
        assert_eq!(sizes, [65_536, 65_536, 65_536, 3_392, 7]);
    }

    #[tokio::test]
    async fn a_reader_who_takes_too_long_is_cut_off_and_frees_its_permit() {
        static ONE: Semaphore = Semaphore::const_new(1);
        let permit = ONE.try_acquire().unwrap();
        let pieces = stream::iter(std::iter::repeat_with(|| piece(10)).take(100));
        let limit = Duration::from_millis(50);
        let mut body = std::pin::pin!(paced(pieces, permit, limit));
        assert!(body.next().await.unwrap().is_ok());
        let freed = tokio::time::timeout(Duration::from_secs(10), ONE.acquire()).await;
        drop(
            freed
                .expect("the permit is free although nobody reads")
                .unwrap(),
        );
        let rest: Vec<_> = body.collect().await;
        assert!(rest.len() < 4 && rest.last().unwrap().is_err());
    }

    #[test]
    fn numbers_that_nobody_held_are_null() {
        let names = [[1; 16], [0; 16], [2; 16]].concat();
        let first = entries(&names, 5, true);
        assert_eq!(
            first,
            "\"AQEBAQEBAQEBAQEBAQEBAQ\",null,\"AgICAgICAgICAgICAgICAg\",null,null"
        );
        assert_eq!(entries(&[], 2, false), ",null,null");
        assert_eq!(entries(&[], 0, true), "");
    }
}
