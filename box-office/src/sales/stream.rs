//! `GET /api/sales/{event_id}/stream`: Server-Sent Events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderName;
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use domain::EventId;
use futures_util::{Stream, stream};
use platform::auth::Caller;
use platform::http::Path;
use platform::problem::Problem;
use tokio::time::{Interval, MissedTickBehavior};

use super::live::{self, Live};
use super::require_operator;
use crate::state::AppState;

const PERIOD: Duration = Duration::from_secs(1);
/// Reconnection delay sent to browsers.
const RETRY: Duration = Duration::from_secs(1);
/// One event per second for as long as an access token is valid, so that a stream ends with the
/// token that opened it.
const MAX_EVENTS: u64 = 900;
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Streams a sale and its live figures each second, until soft shutdown or for 15 minutes.
///
/// # Errors
/// `forbidden` unless the caller is an operator or admin, and `not-found`.
pub(super) async fn stream(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path(id): Path<EventId>,
) -> Result<impl IntoResponse, Problem> {
    require_operator(&caller)?;
    watch(&state, id).await?;
    let headers = [
        (HeaderName::from_static("x-accel-buffering"), "no"),
        (axum::http::header::CACHE_CONTROL, "no-store"),
    ];
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE).text("keep-alive");
    Ok((headers, Sse::new(figures(state, id)).keep_alive(keep_alive)))
}

fn figures(state: Arc<AppState>, id: EventId) -> impl Stream<Item = Result<Event, Infallible>> {
    let mut period = tokio::time::interval(PERIOD);
    period.set_missed_tick_behavior(MissedTickBehavior::Skip);
    stream::unfold(
        (state, period, 0),
        move |(state, mut period, sent)| async move {
            let event = next(&state, id, &mut period, sent).await?;
            Some((Ok(event), (state, period, sent + 1)))
        },
    )
}

/// Returns the next event: the figures, or a comment if reading them failed.
async fn next(
    state: &Arc<AppState>,
    id: EventId,
    period: &mut Interval,
    sent: u64,
) -> Option<Event> {
    let tick = state.ctx.shutdown.soft().run_until_cancelled(period.tick());
    if sent == MAX_EVENTS || tick.await.is_none() {
        return None;
    }
    match watch(state, id).await {
        Ok(live) => {
            let json = serde_json::to_string(&live).expect("the figures are plain JSON");
            let at = state.ctx.clock.now().timestamp_millis();
            Some(Event::default().id(at.to_string()).retry(RETRY).data(json))
        }
        Err(problem) => {
            tracing::warn!(event.id = %id, %problem, "live figures unavailable");
            Some(Event::default().comment("live figures unavailable"))
        }
    }
}

/// Returns a sale with its figures, at most a second old: all streams share one query per second.
///
/// # Errors
/// `not-found` for an unknown sale.
async fn watch(state: &Arc<AppState>, id: EventId) -> Result<Live, Problem> {
    let reading = || {
        let state = Arc::clone(state);
        async move { live::read(&state.ctx, id).await }
    };
    state.live.get(id, reading).await
}
