//! A request body that is lent to its handler. A small unread rest is drained afterwards: closing a
//! connection over unread bytes resets it, and the client loses the response.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};

use crate::sync::MutexExt as _;

/// Most bytes that are drained.
const MAX_UNREAD_BYTES: u64 = 128 * 1024;
const READING_LIMIT: Duration = Duration::from_secs(1);

/// The server's handle to the body.
pub(super) struct Lender(Arc<Mutex<Incoming>>);

struct Lent(Arc<Mutex<Incoming>>);

/// Lends `body`; without a lender when it is empty, as that of most requests.
pub(super) fn lend(body: Incoming) -> (Body, Option<Lender>) {
    if body.is_end_stream() {
        return (Body::empty(), None);
    }
    let shared = Arc::new(Mutex::new(body));
    (Body::new(Lent(shared.clone())), Some(Lender(shared)))
}

impl Lender {
    /// Returns whether the handler consumed the body.
    pub(super) fn is_read(&self) -> bool {
        let body = self.0.lock_unpoisoned();
        body.is_end_stream()
    }

    /// Drains the rest. `false` when it is too long or too slow.
    pub(super) async fn finish(self) -> bool {
        let left = self.poll_through();
        tokio::time::timeout(READING_LIMIT, left)
            .await
            .unwrap_or(false)
    }

    async fn poll_through(&self) -> bool {
        let mut read = 0;
        loop {
            let next = std::future::poll_fn(|context| poll(&self.0, context)).await;
            match next {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    read += u64::try_from(length).unwrap_or(u64::MAX);
                    if read > MAX_UNREAD_BYTES {
                        return false;
                    }
                }
            }
        }
    }
}

type Next = Option<Result<Frame<Bytes>, hyper::Error>>;

fn poll(body: &Mutex<Incoming>, context: &mut Context<'_>) -> Poll<Next> {
    let mut body = body.lock_unpoisoned();
    if body.is_end_stream() {
        return Poll::Ready(None);
    }
    Pin::new(&mut *body).poll_frame(context)
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Next> {
        poll(&self.0, context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock_unpoisoned().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock_unpoisoned().size_hint()
    }
}
