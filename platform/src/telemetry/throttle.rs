//! Says the same thing once in a while, with how often it was not said.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The same is said once in this time.
const PERIOD: Duration = Duration::from_secs(10);
/// Different things that are remembered; more are said each time.
const MAX_KINDS: usize = 200;
/// As much of a text as tells it from others.
const KEY_CHARS: usize = 160;

/// When each kind of log line was last written, and how many were left out since.
pub struct Throttle(LazyLock<Mutex<HashMap<String, Said>>>);

struct Said {
    at: Instant,
    unsaid: u64,
}

impl Throttle {
    /// Nothing was said yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(LazyLock::new(Mutex::default))
    }

    /// Whether a line of this kind is due, and how many were left out since the last one.
    pub fn permit(&self, kind: &str) -> Option<u64> {
        self.permit_at(kind, Instant::now())
    }

    fn permit_at(&self, kind: &str, now: Instant) -> Option<u64> {
        let key: String = kind.chars().take(KEY_CHARS).collect();
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(said) = said.get_mut(&key) {
            if now.saturating_duration_since(said.at) < PERIOD {
                said.unsaid += 1;
                return None;
            }
            said.at = now;
            return Some(std::mem::take(&mut said.unsaid));
        }
        if said.len() < MAX_KINDS {
            said.insert(key, Said { at: now, unsaid: 0 });
        }
        Some(0)
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
}
