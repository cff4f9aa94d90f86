//! A snapshot of a line, pre-rendered for serving.

use std::sync::Arc;

use axum::http::HeaderValue;
use bytes::{BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use domain::ahead::{Ahead, Steps};
use domain::queue::{Lottery, Pace, Snapshot};
use domain::sale::SaleState;
use domain::{EventId, Place};
use platform::line::View;
use serde::Serialize;

/// A view of a line, with the parts shared by all responses rendered once.
pub(crate) struct Rendered {
    pub(crate) view: Arc<View>,
    /// The shared snapshot's JSON.
    pub(crate) body: Bytes,
    /// The same as a Server-Sent Event.
    pub(crate) frame: Bytes,
    /// Strong entity tag of `body`.
    pub(crate) etag: HeaderValue,
    /// Final members of every poll's JSON, from the comma on.
    pub(crate) tail: Vec<u8>,
    steps: Steps,
}

impl Rendered {
    pub(crate) fn new(view: Arc<View>) -> Self {
        let snapshot = &view.snapshot;
        let body = json(&PublicSnapshot::from(snapshot));
        let etag = format!("\"{}-{}\"", snapshot.seq, snapshot.at.timestamp_millis());
        let tail = json(&Tail {
            sale: snapshot.state,
            likely_until: snapshot.likely_until,
            message: &snapshot.message,
        });
        Self {
            frame: frame(snapshot.seq, &body),
            body: body.into(),
            etag: HeaderValue::try_from(etag).expect("digits in quotes make a header value"),
            // Continues an object that has members.
            tail: [b",", &tail[1..]].concat(),
            steps: snapshot.ahead.steps(),
            view,
        }
    }

    /// Returns the number of people ahead of `place` by the snapshot's count; those who joined
    /// since count as present.
    pub(crate) fn ahead_of(&self, place: Place) -> i64 {
        let last = self.view.snapshot.ahead.last;
        self.steps.of(place) + (place.0 - last.0 - 1).max(0)
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("text and numbers are JSON")
}

fn frame(seq: i64, body: &[u8]) -> Bytes {
    let head = format!("event: snapshot\nid: {seq}\ndata: ");
    let mut frame = BytesMut::with_capacity(head.len() + body.len() + 2);
    frame.put(head.as_bytes());
    frame.put(body);
    frame.put(&b"\n\n"[..]);
    frame.freeze()
}

#[derive(Serialize)]
struct Tail<'a> {
    sale: SaleState,
    likely_until: Option<Place>,
    message: &'a str,
}

/// The public part of a snapshot.
#[derive(Serialize)]
struct PublicSnapshot<'a> {
    event_id: EventId,
    seq: i64,
    at: DateTime<Utc>,
    state: SaleState,
    message: &'a str,
    challenge: bool,
    anonymous: bool,
    lottery: &'a Lottery,
    lobby_opens_at: Option<DateTime<Utc>>,
    opens_at: Option<DateTime<Utc>>,
    closes_at: Option<DateTime<Utc>>,
    rate_per_minute: u32,
    joined: Place,
    cursor: Place,
    waiting: i64,
    shopping: i64,
    shopper_cap: u32,
    available: Option<i64>,
    likely_until: Option<Place>,
    ahead: &'a Ahead,
    pace: Option<Pace>,
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
            anonymous: snapshot.anonymous,
            lottery: &snapshot.lottery,
            lobby_opens_at: snapshot.lobby_opens_at,
            opens_at: snapshot.opens_at,
            closes_at: snapshot.closes_at,
            rate_per_minute: snapshot.rate_per_minute,
            joined: snapshot.joined,
            cursor: snapshot.cursor,
            waiting: snapshot.waiting,
            shopping: snapshot.shopping,
            shopper_cap: snapshot.shopper_cap,
            available: snapshot.available,
            likely_until: snapshot.likely_until,
            ahead: &snapshot.ahead,
            pace: snapshot.pace,
            poll_after_ms: snapshot.poll_after_ms,
        }
    }
}
