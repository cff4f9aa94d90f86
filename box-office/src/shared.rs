//! Answers that are the same for everyone: made at most once a second however many ask, with an
//! `ETag` so that a reader who has the newest gets 304.

use std::collections::HashMap;
use std::hash::Hash;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use domain::clock::SharedClock;
use flate2::Compression;
use flate2::write::GzEncoder;
use platform::problem::Problem;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// From this age on an answer is made anew, while the old one is still handed out: or everybody
/// would wait each second for as long as that takes.
const RENEW_AGE: TimeDelta = TimeDelta::milliseconds(500);
/// How long an answer is handed out again.
const MAX_AGE: TimeDelta = TimeDelta::seconds(1);
/// What browsers and proxies are told.
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("public, max-age=1");
/// With more keys than this, those that nobody asks for any more are dropped.
const MAX_IDLE_KEYS: usize = 1_024;

/// Shorter answers are not worth compressing.
const PACK_ABOVE_BYTES: usize = 1_024;

/// A JSON answer, serialized once.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    body: Bytes,
    /// The same, compressed with gzip.
    packed: Option<Bytes>,
    etag: HeaderValue,
}

impl Answer {
    /// `value` as JSON.
    pub(crate) fn json(value: &impl Serialize) -> Self {
        Self::ready(
            serde_json::to_vec(value)
                .expect("answers are plain JSON")
                .into(),
        )
    }

    /// JSON that is written already.
    pub(crate) fn ready(body: Bytes) -> Self {
        // Weak, because the answer may be compressed on its way out.
        let etag = format!(
            "W/\"{}\"",
            URL_SAFE_NO_PAD.encode(&Sha256::digest(&body)[..12])
        );
        let etag = HeaderValue::try_from(etag).expect("base64 is visible ASCII");
        Self {
            body,
            packed: None,
            etag,
        }
    }

    /// Compresses it once for all who will get it.
    pub(crate) fn packed(mut self) -> Self {
        if self.body.len() > PACK_ABOVE_BYTES {
            let mut packer = GzEncoder::new(Vec::new(), Compression::default());
            let packed = packer.write_all(&self.body).and_then(|()| packer.finish());
            self.packed = Some(packed.expect("memory takes everything").into());
        }
        self
    }

    /// The answer to a request with these headers: 304 when the caller has it already.
    pub(crate) fn respond(&self, request: &HeaderMap) -> Response {
        let mut response = if is_known(request, &self.etag) {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            self.full(request)
        };
        response
            .headers_mut()
            .insert(header::ETAG, self.etag.clone());
        response
            .headers_mut()
            .insert(header::CACHE_CONTROL, CACHE_CONTROL);
        response
    }
}

impl Answer {
    fn full(&self, request: &HeaderMap) -> Response {
        let packed = self.packed.as_ref().filter(|_| takes_gzip(request));
        let body = packed.unwrap_or(&self.body);
        let mut response = Response::new(Body::from(body.clone()));
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if packed.is_some() {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        response
    }
}

/// Whether `Accept-Encoding` names gzip with a quality that is not zero.
fn takes_gzip(request: &HeaderMap) -> bool {
    request
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|offer| {
            let (coding, weight) = offer.split_once(';').unwrap_or((offer, "q=1"));
            let weight = weight.trim().trim_start_matches("q=");
            coding.trim().eq_ignore_ascii_case("gzip")
                && weight.parse::<f32>().is_ok_and(|weight| weight > 0.0)
        })
}

/// Whether `If-None-Match` names `etag` (weak comparison, RFC 9110 §13.1.2).
pub(crate) fn is_known(request: &HeaderMap, etag: &HeaderValue) -> bool {
    let etag = etag.to_str().unwrap_or_default();
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    request
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|tag| tag.trim() == "*" || opaque(tag) == opaque(etag))
}

/// Values that are at most a second old and loaded at most twice a second per key. Those who ask when
/// there is none, or one too old, wait for the load and get what it brings, be it a failure.
pub(crate) struct SecondCache<K, V> {
    clock: SharedClock,
    slots: Mutex<HashMap<K, Arc<Slot<V>>>>,
}

struct Loaded<V> {
    at: DateTime<Utc>,
    outcome: Result<V, Problem>,
}

struct Slot<V> {
    latest: RwLock<Option<Loaded<V>>>,
    loading: tokio::sync::Mutex<()>,
    is_renewing: AtomicBool,
}

/// What a slot has.
enum Latest<V> {
    /// New enough.
    Fresh(Result<V, Problem>),
    /// Good, and soon too old.
    Ageing(Result<V, Problem>),
    /// Nothing that may be handed out.
    None,
}

impl<V: Clone> Slot<V> {
    fn new() -> Self {
        Self {
            latest: RwLock::new(None),
            loading: tokio::sync::Mutex::new(()),
            is_renewing: AtomicBool::new(false),
        }
    }

    /// What was loaded, unless it is too old. A clock that was set back makes it so, too.
    fn latest(&self, now: DateTime<Utc>) -> Latest<V> {
        let latest = self.latest.read().unwrap_or_else(PoisonError::into_inner);
        let Some(loaded) = latest.as_ref() else {
            return Latest::None;
        };
        let age = now - loaded.at;
        if (TimeDelta::zero()..RENEW_AGE).contains(&age) {
            Latest::Fresh(loaded.outcome.clone())
        } else if (RENEW_AGE..MAX_AGE).contains(&age) {
            Latest::Ageing(loaded.outcome.clone())
        } else {
            Latest::None
        }
    }

    /// Whether anything may be handed out.
    fn is_good(&self, now: DateTime<Utc>) -> bool {
        !matches!(self.latest(now), Latest::None)
    }

    fn keep(&self, at: DateTime<Utc>, outcome: Result<V, Problem>) {
        let loaded = Some(Loaded { at, outcome });
        *self.latest.write().unwrap_or_else(PoisonError::into_inner) = loaded;
    }
}

impl<K: Eq + Hash + Clone, V: Clone + Send + Sync + 'static> SecondCache<K, V> {
    /// An empty cache.
    pub(crate) fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            slots: Mutex::new(HashMap::new()),
        }
    }

    /// The value of `key`, at most a second old; `load` brings a newer one.
    pub(crate) async fn get<F>(&self, key: K, load: impl FnOnce() -> F) -> Result<V, Problem>
    where
        F: Future<Output = Result<V, Problem>> + Send + 'static,
    {
        let slot = self.slot(key);
        match slot.latest(self.clock.now()) {
            Latest::Fresh(value) => return value,
            Latest::Ageing(value) => {
                if !slot.is_renewing.swap(true, Ordering::AcqRel) {
                    tokio::spawn(renew(slot, SharedClock::clone(&self.clock), load()));
                }
                return value;
            }
            Latest::None => {}
        }
        let _turn = slot.loading.lock().await;
        if let Latest::Fresh(value) | Latest::Ageing(value) = slot.latest(self.clock.now()) {
            return value;
        }
        let value = load().await;
        slot.keep(self.clock.now(), value.clone());
        value
    }

    /// The slot of `key`. Nobody asks for a slot that only the map holds and that is not fresh.
    fn slot(&self, key: K) -> Arc<Slot<V>> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_IDLE_KEYS && !slots.contains_key(&key) {
            let now = self.clock.now();
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.is_good(now));
        }
        Arc::clone(slots.entry(key).or_insert_with(|| Arc::new(Slot::new())))
    }
}

/// Brings a newer value while the one before is handed out.
async fn renew<V: Clone>(
    slot: Arc<Slot<V>>,
    clock: SharedClock,
    load: impl Future<Output = Result<V, Problem>>,
) {
    let renewing = Renewing(&slot);
    let _turn = slot.loading.lock().await;
    let renewed = load.await;
    slot.keep(clock.now(), renewed);
    drop(renewing);
}

/// Lets others renew the slot when this is over, however it ends.
struct Renewing<'a, V>(&'a Slot<V>);

impl<V> Drop for Renewing<'_, V> {
    fn drop(&mut self) {
        self.0.is_renewing.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use domain::clock::ManualClock;

    use super::*;

    fn clock() -> ManualClock {
        ManualClock::at(DateTime::from_timestamp(1_800_000_000, 0).unwrap())
    }

    async fn count(loads: Arc<AtomicU32>) -> Result<u32, Problem> {
        tokio::task::yield_now().await;
        Ok(loads.fetch_add(1, Ordering::SeqCst) + 1)
    }

    #[tokio::test]
    async fn a_crowd_costs_one_load_a_second() {
        let clock = clock();
        let cache = Arc::new(SecondCache::new(Arc::new(clock.clone())));
        let loads = Arc::new(AtomicU32::new(0));
        for second in 1..=3 {
            let mut crowd = tokio::task::JoinSet::new();
            for _ in 0..100 {
                let (cache, loads) = (Arc::clone(&cache), Arc::clone(&loads));
                crowd.spawn(async move { cache.get("a", || count(loads)).await.unwrap() });
            }
            assert!(
                crowd
                    .join_all()
                    .await
                    .into_iter()
                    .all(|value| value == second)
            );
            clock.advance(MAX_AGE);
        }
    }

    #[tokio::test]
    async fn nobody_waits_while_an_answer_is_made_anew() {
        let clock = clock();
        let cache = SecondCache::new(Arc::new(clock.clone()));
        assert_eq!(cache.get("a", || async { Ok(1) }).await.unwrap(), 1);
        clock.advance(RENEW_AGE);
        let (release, released) = tokio::sync::oneshot::channel::<()>();
        let slow = async move {
            let _ = released.await;
            Ok(2)
        };
        assert_eq!(cache.get("a", || slow).await.unwrap(), 1);
        // Lets it begin.
        tokio::task::yield_now().await;
        assert_eq!(cache.get("a", || async { Ok(3) }).await.unwrap(), 1);
        clock.advance(RENEW_AGE);
        // Too old by now: whoever asks waits for the load that runs.
        release.send(()).unwrap();
        assert_eq!(cache.get("a", || async { Ok(4) }).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_failure_is_not_repeated_for_everyone_who_waits() {
        let cache = SecondCache::new(Arc::new(clock()));
        let failed = async { Err(crate::fields::invalid("x", "No.")) };
        assert!(cache.get("a", || failed).await.is_err());
        assert!(cache.get("a", || async { Ok(1) }).await.is_err());
    }

    #[tokio::test]
    async fn idle_keys_are_dropped() {
        let clock = clock();
        let cache = SecondCache::new(Arc::new(clock.clone()));
        let loads = Arc::new(AtomicU32::new(0));
        for key in 0..MAX_IDLE_KEYS {
            cache.get(key, || count(Arc::clone(&loads))).await.unwrap();
        }
        clock.advance(MAX_AGE);
        cache.get(MAX_IDLE_KEYS, || count(loads)).await.unwrap();
        assert_eq!(cache.slots.lock().unwrap().len(), 1);
    }

    #[test]
    fn only_who_takes_gzip_gets_it() {
        let long = Answer::json(&vec![0; 2_000]).packed();
        let answer = |accepted: Option<&'static str>| {
            let mut request = HeaderMap::new();
            if let Some(accepted) = accepted {
                request.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            }
            let response = long.respond(&request);
            response.headers().contains_key(header::CONTENT_ENCODING)
        };
        let accepted = [
            None,
            Some("br"),
            Some("gzip;q=0"),
            Some("br, gzip"),
            Some("gzip;q=0.5"),
        ];
        assert_eq!(accepted.map(answer), [false, false, false, true, true]);
        assert!(Answer::json(&[1]).packed().packed.is_none());
    }

    #[test]
    fn a_reader_who_has_the_newest_is_told_so() {
        let shared = Answer::json(&[1, 2]);
        let mut request = HeaderMap::new();
        assert_eq!(shared.respond(&request).status(), StatusCode::OK);
        let list = format!("\"other\", {}", shared.etag.to_str().unwrap());
        request.insert(header::IF_NONE_MATCH, HeaderValue::try_from(list).unwrap());
        assert_eq!(shared.respond(&request).status(), StatusCode::NOT_MODIFIED);
        assert_eq!(
            Answer::json(&[3]).respond(&request).status(),
            StatusCode::OK
        );
    }
}
