//! Responses shared by all callers: a single-flight, stale-while-revalidate cache with a maximum
//! age of one second.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use axum::http::HeaderValue;
use chrono::{DateTime, TimeDelta, Utc};
use domain::clock::SharedClock;

use crate::problem::Problem;
use crate::sync::{MutexExt as _, RwLockExt as _};

/// `Cache-Control` of a response from a [`SecondCache`], for browsers and proxies.
pub const FOR_A_SECOND: HeaderValue = HeaderValue::from_static("public, max-age=1");

/// Age from which a value is revalidated in the background while the old one is still served, so
/// that callers don't wait for a load each second.
const RENEW_AGE: TimeDelta = TimeDelta::milliseconds(500);
/// Age up to which a value is served.
const MAX_AGE: TimeDelta = TimeDelta::seconds(1);
/// Number of keys from which idle ones are evicted on insert.
const MAX_IDLE_KEYS: usize = 1_024;

/// Single-flight cache of values at most a second old, loaded at most twice a second per key.
/// Callers that find no value, or an expired one, wait for the load in flight and share its
/// outcome, including a failure.
pub struct SecondCache<K, V> {
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

/// Freshness of a slot's value.
enum Latest<V> {
    /// Younger than [`RENEW_AGE`].
    Fresh(Result<V, Problem>),
    /// Servable, but to be revalidated.
    Ageing(Result<V, Problem>),
    /// Absent, or older than [`MAX_AGE`].
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

    /// Returns the value with its freshness. A value from the future (a clock that was set back) is
    /// treated as expired.
    fn latest(&self, now: DateTime<Utc>) -> Latest<V> {
        let latest = self.latest.read_unpoisoned();
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

    /// Returns true if there is a servable value.
    fn is_good(&self, now: DateTime<Utc>) -> bool {
        !matches!(self.latest(now), Latest::None)
    }

    fn keep(&self, at: DateTime<Utc>, outcome: Result<V, Problem>) {
        let loaded = Some(Loaded { at, outcome });
        *self.latest.write_unpoisoned() = loaded;
    }
}

impl<K: Eq + Hash + Clone, V: Clone + Send + Sync + 'static> SecondCache<K, V> {
    /// Creates an empty cache.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            slots: Mutex::new(HashMap::new()),
        }
    }

    /// Returns the value of `key`, at most a second old. Calls `load` if there is none, and in the
    /// background if it is due for revalidation.
    ///
    /// # Errors
    /// Those of the load, for everybody who shares it.
    pub async fn get<F>(&self, key: K, load: impl FnOnce() -> F) -> Result<V, Problem>
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

    /// Returns the slot of `key`, and evicts idle slots when there are too many. A slot is idle if
    /// only the map references it and its value has expired.
    fn slot(&self, key: K) -> Arc<Slot<V>> {
        let mut slots = self.slots.lock_unpoisoned();
        if slots.len() >= MAX_IDLE_KEYS && !slots.contains_key(&key) {
            let now = self.clock.now();
            slots.retain(|_, slot| Arc::strong_count(slot) > 1 || slot.is_good(now));
        }
        Arc::clone(slots.entry(key).or_insert_with(|| Arc::new(Slot::new())))
    }
}

/// Loads a new value in the background while the previous one is served.
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

/// Guard that allows the next revalidation when it is dropped, also on panic or cancellation.
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
    use crate::problem::Kind;

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
        // Lets the spawned revalidation start.
        tokio::task::yield_now().await;
        assert_eq!(cache.get("a", || async { Ok(3) }).await.unwrap(), 1);
        clock.advance(RENEW_AGE);
        // Expired by now: callers wait for the load in flight.
        release.send(()).unwrap();
        assert_eq!(cache.get("a", || async { Ok(4) }).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn a_failure_is_not_repeated_for_everyone_who_waits() {
        let cache = SecondCache::new(Arc::new(clock()));
        let failed = async { Err(Problem::new(Kind::Invalid, "No.")) };
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
}
