//! Rate limiting of log lines: one of each kind per period, with the number that was suppressed.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use crate::sync::MutexExt as _;

/// One line of a kind is permitted in this time.
const PERIOD: Duration = Duration::from_secs(10);
/// Most kinds with an entry of their own. Beyond it, kinds that are due are evicted; when none is,
/// new kinds share one entry.
const MAX_KINDS: usize = 200;
/// The entry that new kinds share; no kind has this name.
const OTHERS: &str = "";
/// Kinds are compared by so many characters.
const KEY_CHARS: usize = 160;

/// Time of the last permitted log line of each kind, and the number suppressed since. Bounded in
/// memory and in the number of lines, however many kinds there are.
pub struct Throttle(LazyLock<Mutex<HashMap<String, Permitted>>>);

struct Permitted {
    at: Instant,
    suppressed: u64,
}

impl Permitted {
    fn is_due(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= PERIOD
    }
}

impl Throttle {
    /// Creates an empty throttle.
    #[must_use]
    pub const fn new() -> Self {
        Self(LazyLock::new(Mutex::default))
    }

    /// Returns how many lines of this kind were suppressed since the last one; `None` while another
    /// one is not due.
    pub fn permit(&self, kind: &str) -> Option<u64> {
        self.permit_at(kind, Instant::now())
    }

    fn permit_at(&self, kind: &str, now: Instant) -> Option<u64> {
        let mut key: String = kind.chars().take(KEY_CHARS).collect();
        let mut kinds = self.0.lock_unpoisoned();
        if kinds.len() >= MAX_KINDS && !kinds.contains_key(&key) {
            // A kind that is not due must stay, or its next line would pass.
            kinds.retain(|_, last| !last.is_due(now));
            if kinds.len() >= MAX_KINDS {
                key = OTHERS.to_owned();
            }
        }
        let first = Permitted {
            at: now,
            suppressed: 0,
        };
        match kinds.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(first);
                Some(0)
            }
            Entry::Occupied(mut entry) if entry.get().is_due(now) => {
                Some(entry.insert(first).suppressed)
            }
            Entry::Occupied(mut entry) => {
                entry.get_mut().suppressed += 1;
                None
            }
        }
    }
}

impl Default for Throttle {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_said_once_in_a_while_with_the_count_of_what_was_not() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        assert_eq!(throttle.permit_at("full", now), Some(0));
        assert_eq!(throttle.permit_at("full", now), None);
        assert_eq!(throttle.permit_at("full", now + PERIOD / 2), None);
        assert_eq!(throttle.permit_at("late", now), Some(0));
        assert_eq!(throttle.permit_at("full", now + PERIOD), Some(2));
        assert_eq!(throttle.permit_at("full", now + PERIOD * 2), Some(0));
    }

    #[test]
    fn a_flood_of_kinds_is_bounded_and_evicts_none_that_is_not_due() {
        let (throttle, now) = (Throttle::new(), Instant::now());
        assert_eq!(throttle.permit_at("first", now), Some(0));
        let flood = |at| {
            let kinds = (0..10 * MAX_KINDS).map(|kind| format!("kind {kind}"));
            kinds
                .filter(|kind| throttle.permit_at(kind, at).is_some())
                .count()
        };
        assert_eq!(flood(now), MAX_KINDS);
        assert_eq!(flood(now), 0);
        assert_eq!(throttle.permit_at("first", now), None);
        assert_eq!(throttle.0.lock().unwrap().len(), MAX_KINDS + 1);

        let later = now + PERIOD;
        assert_eq!(throttle.permit_at("kind 0", later), Some(1));
        assert_eq!(throttle.permit_at("new", later), Some(0));
        assert_eq!(throttle.permit_at("new", later), None);
        assert_eq!(throttle.permit_at("kind 0", later), None, "it was not due");
        assert_eq!(throttle.0.lock().unwrap().len(), 2, "the others were");
    }
}
