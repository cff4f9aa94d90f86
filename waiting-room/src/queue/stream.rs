//! `GET /api/events/{id}/queue/stream`: the shared snapshot as Server-Sent Events. The bytes of an
//! event are encoded once for all who listen.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use domain::EventId;
use futures_util::Stream;
use platform::http::Path;
use platform::problem::Problem;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Room;
use crate::shown::Shown;

/// How long a stream may be silent before a comment shows that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn stream(
    State(room): State<Arc<Room>>,
    Path(event_id): Path<EventId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut moments = room.sales.get(event_id).await?.subscribe();
    // The one of now counts as news, too.
    moments.mark_changed();
    let seen = headers
        .get("last-event-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    let listener = Listener {
        moments,
        seen,
        soft: room.ctx.shutdown.soft().clone(),
        _counted: Counted::new(),
    };
    let headers = [
        (CONTENT_TYPE.as_str(), "text/event-stream"),
        (CACHE_CONTROL.as_str(), "no-store"),
        ("x-accel-buffering", "no"),
    ];
    Ok((headers, Body::from_stream(listener.frames())).into_response())
}

/// One open stream.
struct Listener {
    moments: watch::Receiver<Arc<Shown>>,
    /// `seq` of the last snapshot the client has.
    seen: Option<i64>,
    soft: CancellationToken,
    _counted: Counted,
}

impl Listener {
    fn frames(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        futures_util::stream::unfold(self, |mut listener| async move {
            let frame = listener.next().await?;
            Some((Ok(frame), listener))
        })
    }

    /// The next snapshot the client does not have, or a comment; `None` at soft shutdown.
    async fn next(&mut self) -> Option<Bytes> {
        let keep_alive = tokio::time::sleep(KEEP_ALIVE);
        tokio::pin!(keep_alive);
        loop {
            tokio::select! {
                () = self.soft.cancelled() => return None,
                () = &mut keep_alive => return Some(Bytes::from_static(b": alive\n\n")),
                changed = self.moments.changed() => changed.ok()?,
            }
            let shown = self.moments.borrow_and_update();
            let seq = shown.view.snapshot.seq;
            if self.seen != Some(seq) {
                self.seen = Some(seq);
                return Some(shown.frame.clone());
            }
        }
    }
}

/// Counts open streams.
struct Counted;

impl Counted {
    fn new() -> Self {
        metrics::gauge!("waiting_room_streams").increment(1.0);
        Self
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        metrics::gauge!("waiting_room_streams").decrement(1.0);
    }
}
