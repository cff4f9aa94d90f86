//! `GET /api/events/{id}/queue/stream`: the shared snapshot as Server-Sent Events. An event is
//! encoded once for all listeners, and sent at most once a second to each.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use domain::{EventId, Number};
use futures_util::Stream;
use platform::auth::QUEUE_TOKEN;
use platform::http::{ClientAddr, Path};
use platform::problem::Problem;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::holder;
use crate::rendered::Rendered;
use crate::sales::LiveSale;
use crate::state::AppState;
use crate::streams;

/// Period of keep-alive comments.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Minimum interval between events.
const PACE: Duration = Duration::from_secs(1);
/// Period at which a listener with a queue token is marked present.
const SEEN_PERIOD: Duration = Duration::from_secs(2);
/// Base of the `retry` field, in milliseconds; jitter of up to [`RETRY_SPREAD_MS`] is added, so
/// that the clients of a node that stops don't reconnect all at once.
const RETRY_MS: u64 = 2_000;
const RETRY_SPREAD_MS: f64 = 8_000.0;

pub(super) async fn stream(
    State(state): State<Arc<AppState>>,
    Path(event_id): Path<EventId>,
    ClientAddr(address): ClientAddr,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let sale = state.sales.get(event_id).await?;
    let number = if headers.contains_key(QUEUE_TOKEN) {
        let holder = holder(&state.ctx.keys, event_id, &headers, state.ctx.clock.now())?;
        Some(holder.number)
    } else {
        None
    };
    let counted = state.streams.open(address)?;
    let mut moments = sale.subscribe();
    // The current snapshot is sent first.
    moments.mark_changed();
    let last = headers.get("last-event-id");
    let known = last
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    let listener = Listener {
        moments,
        known,
        greeting: Some(greeting(rand::random())),
        next_at: Instant::now(),
        present: number.map(|number| Present { sale, number }),
        soft: state.ctx.shutdown.soft().clone(),
        stays: state.ctx.config.drain.mul_f64(rand::random()),
        _counted: counted,
    };
    let headers = [
        (CONTENT_TYPE.as_str(), "text/event-stream"),
        (CACHE_CONTROL.as_str(), "no-store"),
        ("x-accel-buffering", "no"),
    ];
    Ok((headers, Body::from_stream(listener.frames())).into_response())
}

fn greeting(jitter: f64) -> Bytes {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "some seconds"
    )]
    let spread = (RETRY_SPREAD_MS * jitter.clamp(0.0, 1.0)) as u64;
    format!("retry: {}\n\n", RETRY_MS + spread).into()
}

/// The holder of a queue token; an open stream counts as presence.
struct Present {
    sale: Arc<LiveSale>,
    number: Number,
}

/// One open stream.
struct Listener {
    moments: watch::Receiver<Arc<Rendered>>,
    /// `seq` of the client's last snapshot.
    known: Option<i64>,
    /// The first frame.
    greeting: Option<Bytes>,
    /// Earliest time of the next event.
    next_at: Instant,
    present: Option<Present>,
    soft: CancellationToken,
    /// Time for which the stream stays open after soft shutdown.
    stays: Duration,
    _counted: streams::Stream,
}

impl Listener {
    fn frames(self) -> impl Stream<Item = Result<Bytes, Infallible>> {
        futures_util::stream::unfold(self, |mut listener| async move {
            let frame = match listener.greeting.take() {
                Some(greeting) => greeting,
                None => listener.next().await?,
            };
            Some((Ok(frame), listener))
        })
    }

    /// Returns the next new snapshot or a keep-alive; `None` at a jittered time after soft
    /// shutdown, so that streams don't all end at once.
    async fn next(&mut self) -> Option<Bytes> {
        let keep_alive = tokio::time::sleep(KEEP_ALIVE);
        let ended = ended(self.soft.clone(), self.stays);
        tokio::pin!(keep_alive, ended);
        let mut seen = tokio::time::interval(SEEN_PERIOD);
        loop {
            tokio::select! {
                () = &mut ended => return None,
                () = &mut keep_alive => return Some(Bytes::from_static(b": alive\n\n")),
                _ = seen.tick(), if self.present.is_some() => {
                    if let Some(present) = &self.present {
                        present.sale.polls.mark_present(present.number);
                    }
                    continue;
                }
                changed = changed(&mut self.moments, self.next_at) => changed.ok()?,
            }
            let rendered = self.moments.borrow_and_update();
            let seq = rendered.view.snapshot.seq;
            if self.known != Some(seq) {
                self.known = Some(seq);
                self.next_at = Instant::now() + PACE;
                return Some(rendered.frame.clone());
            }
        }
    }
}

/// Waits for a change, not before `next_at`, so that changes in between are coalesced.
async fn changed(
    moments: &mut watch::Receiver<Arc<Rendered>>,
    next_at: Instant,
) -> Result<(), watch::error::RecvError> {
    tokio::time::sleep_until(next_at).await;
    moments.changed().await
}

async fn ended(soft: CancellationToken, stays: Duration) {
    soft.cancelled().await;
    tokio::time::sleep(stays).await;
}
