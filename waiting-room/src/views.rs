//! This node's copies of the snapshots that somebody asks for, read again four times a second.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::http::HeaderValue;
use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use domain::queue::{SaleKeys, Snapshot};
use domain::sale::SaleState;
use domain::{EventId, Place};
use futures_util::StreamExt;
use platform::problem::{Kind, Problem};
use platform::redis::{AsyncCommands, Redis};
use redis::RedisError;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::left::LeftPlaces;

/// How often snapshots are read again.
const REFRESH_PERIOD: Duration = Duration::from_millis(250);
/// For how many refreshes, a minute, a snapshot is kept that nobody asks for.
const KEPT_REFRESHES: u32 = 240;
/// How many snapshots are read at once.
const READ_AT_ONCE: usize = 64;
/// When a stream that broke off is to be opened again, in milliseconds.
const STREAM_RETRY_MS: u32 = 3_000;

/// One sale's snapshot, ready to be served.
pub(crate) struct View {
    /// The snapshot.
    pub(crate) snapshot: Snapshot,
    /// Which places have left.
    pub(crate) left: LeftPlaces,
    /// What everyone gets.
    pub(crate) body: Bytes,
    /// The same as a Server-Sent Event.
    pub(crate) frame: Bytes,
    /// Tells this body from every other.
    pub(crate) etag: HeaderValue,
    /// What Redis holds.
    stored: Bytes,
}

/// Why there is no view.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewError {
    /// No release leader has seen the sale.
    #[error("there is no such sale")]
    Unknown,
    #[error("the snapshot can't be read from Redis")]
    Redis(#[from] RedisError),
    #[error("the snapshot in Redis is not one")]
    Decode(#[from] serde_json::Error),
}

impl From<ViewError> for Problem {
    fn from(error: ViewError) -> Self {
        match error {
            ViewError::Unknown => Self::new(Kind::NotFound, "There is no sale of this event."),
            ViewError::Redis(error) => error.into(),
            ViewError::Decode(_) => Self::internal(&error),
        }
    }
}

/// The views of all sales that somebody asks for.
pub(crate) struct Views {
    redis: Redis,
    namespace: String,
    watched: RwLock<HashMap<EventId, Arc<Watched>>>,
}

struct Watched {
    latest: watch::Sender<Arc<View>>,
    /// Whether somebody has asked since the last refresh.
    is_asked: AtomicBool,
    /// How many refreshes ago somebody did.
    unasked: AtomicU32,
}

impl Views {
    pub(crate) fn new(redis: Redis, namespace: &str) -> Self {
        Self {
            redis,
            namespace: namespace.to_owned(),
            watched: RwLock::default(),
        }
    }

    /// The view of `event_id`'s sale, at most about [`REFRESH_PERIOD`] old unless Redis is away.
    pub(crate) async fn get(&self, event_id: EventId) -> Result<Arc<View>, ViewError> {
        Ok(Arc::clone(&self.watched(event_id).await?.latest.borrow()))
    }

    /// Every view of `event_id`'s sale from now on.
    pub(crate) async fn subscribe(
        &self,
        event_id: EventId,
    ) -> Result<watch::Receiver<Arc<View>>, ViewError> {
        Ok(self.watched(event_id).await?.latest.subscribe())
    }

    /// Reads the snapshots again and again, until dropped.
    pub(crate) async fn refresh(&self) {
        let mut ticks = tokio::time::interval(REFRESH_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            futures_util::stream::iter(self.keep_asked_for())
                .for_each_concurrent(READ_AT_ONCE, |(event_id, watched)| async move {
                    if let Err(error) = self.read_again(event_id, &watched).await {
                        tracing::warn!(%event_id, %error, "the snapshot was not refreshed");
                    }
                })
                .await;
        }
    }

    async fn watched(&self, event_id: EventId) -> Result<Arc<Watched>, ViewError> {
        let known = {
            let watched = self.watched.read().unwrap_or_else(PoisonError::into_inner);
            watched.get(&event_id).map(Arc::clone)
        };
        if let Some(known) = known {
            known.is_asked.store(true, Ordering::Relaxed);
            return Ok(known);
        }
        let view = self.read(event_id, None).await?.ok_or(ViewError::Unknown)?;
        let mut watched = self.watched.write().unwrap_or_else(PoisonError::into_inner);
        let entry = watched.entry(event_id).or_insert_with(|| {
            let latest = watch::Sender::new(Arc::new(view));
            Arc::new(Watched {
                latest,
                is_asked: AtomicBool::new(true),
                unasked: AtomicU32::new(0),
            })
        });
        Ok(Arc::clone(entry))
    }

    /// Forgets the sales that nobody asks for, and returns the others.
    fn keep_asked_for(&self) -> Vec<(EventId, Arc<Watched>)> {
        let mut watched = self.watched.write().unwrap_or_else(PoisonError::into_inner);
        watched.retain(|_, sale| sale.is_asked_for());
        watched
            .iter()
            .map(|(event_id, sale)| (*event_id, Arc::clone(sale)))
            .collect()
    }

    async fn read_again(&self, event_id: EventId, watched: &Watched) -> Result<(), ViewError> {
        let known = Arc::clone(&watched.latest.borrow());
        if let Some(view) = self.read(event_id, Some(&known)).await? {
            watched.latest.send_replace(Arc::new(view));
        }
        Ok(())
    }

    /// What Redis holds, unless that is nothing or what is `known`.
    async fn read(
        &self,
        event_id: EventId,
        known: Option<&View>,
    ) -> Result<Option<View>, ViewError> {
        let keys = SaleKeys::new(&self.namespace, event_id);
        let mut redis = self.redis.clone();
        let Some(stored) = redis.get::<_, Option<Vec<u8>>>(keys.snapshot()).await? else {
            return Ok(None);
        };
        if known.is_some_and(|known| known.stored == stored) {
            return Ok(None);
        }
        let snapshot: Snapshot = serde_json::from_slice(&stored)?;
        let left = match known {
            Some(known) if known.snapshot.left == snapshot.left => known.left.clone(),
            None if snapshot.left == 0 => LeftPlaces::default(),
            _ => LeftPlaces::new(redis.get::<_, Vec<u8>>(keys.left()).await?.into()),
        };
        Ok(Some(View::new(snapshot, left, stored.into())?))
    }
}

impl Watched {
    /// Whether to keep it; called once in each refresh.
    fn is_asked_for(&self) -> bool {
        if self.is_asked.swap(false, Ordering::Relaxed) || self.latest.receiver_count() > 0 {
            self.unasked.store(0, Ordering::Relaxed);
            return true;
        }
        self.unasked.fetch_add(1, Ordering::Relaxed) < KEPT_REFRESHES
    }
}

impl View {
    fn new(snapshot: Snapshot, left: LeftPlaces, stored: Bytes) -> Result<Self, serde_json::Error> {
        let body = Bytes::from(serde_json::to_vec(&PublicSnapshot::from(&snapshot))?);
        let etag = format!("\"{}-{}\"", snapshot.seq, snapshot.at.timestamp_millis());
        let etag = HeaderValue::try_from(etag).expect("digits in quotes make a header value");
        let frame = frame(snapshot.seq, &body);
        Ok(Self {
            snapshot,
            left,
            body,
            frame,
            etag,
            stored,
        })
    }

    /// How many people are before `place`: those who left are not counted.
    pub(crate) fn ahead_of(&self, place: Place) -> i64 {
        let cursor = self.snapshot.cursor;
        let places = place.0 - cursor.0 - 1;
        (places - self.left.count_between(cursor, place)).max(0)
    }
}

fn frame(seq: i64, body: &Bytes) -> Bytes {
    let head = format!("event: snapshot\nid: {seq}\nretry: {STREAM_RETRY_MS}\ndata: ");
    let mut frame = BytesMut::with_capacity(head.len() + body.len() + 2);
    frame.put(head.as_bytes());
    frame.put(body.as_ref());
    frame.put(&b"\n\n"[..]);
    frame.freeze()
}

/// What of a snapshot everyone may see.
#[derive(Serialize)]
struct PublicSnapshot<'a> {
    event_id: EventId,
    seq: i64,
    at: DateTime<Utc>,
    state: SaleState,
    message: &'a str,
    challenge: bool,
    rate_per_minute: u32,
    joined: Place,
    cursor: Place,
    missed_below: Place,
    waiting: i64,
    shopping: i64,
    shopper_cap: u32,
    available: Option<i64>,
    poll_after_ms: u32,
}

impl<'a> From<&'a Snapshot> for PublicSnapshot<'a> {
    fn from(snapshot: &'a Snapshot) -> Self {
        Self {
            event_id: snapshot.event_id,
            seq: snapshot.seq,
            at: snapshot.at,
            state: snapshot.state,
            message: &snapshot.message,
            challenge: snapshot.challenge,
            rate_per_minute: snapshot.rate_per_minute,
            joined: snapshot.joined,
            cursor: snapshot.cursor,
            missed_below: snapshot.missed_below,
            waiting: snapshot.waiting,
            shopping: snapshot.shopping,
            shopper_cap: snapshot.shopper_cap,
            available: snapshot.available,
            poll_after_ms: snapshot.poll_after_ms,
        }
    }
}
