//! `Idempotency-Key`: the first response is stored and replayed, a stored 500 included.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest, Sha256};

use super::answer::Answer;
use super::errors::Refusal;
use super::form::Form;

/// Retention of a key; Stripe may drop it after a day.
const RETENTION: TimeDelta = TimeDelta::hours(24);
/// Maximum number of keys; beyond it the oldest is evicted early.
const MAX_KEYS: usize = 500_000;
/// Stripe's bound on the length of a key.
const MAX_KEY_LENGTH: usize = 255;

/// Outcome of claiming a key.
pub(crate) enum Turn {
    /// The caller executes, then calls [`Claim::save`].
    First(Claim),
    /// Executed before, with this response.
    Again(Answer),
}

/// Store of used keys.
#[derive(Default)]
pub(crate) struct UsedKeys(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    entries: HashMap<String, Entry>,
    oldest_first: VecDeque<(DateTime<Utc>, String)>,
}

struct Entry {
    fingerprint: [u8; 32],
    /// `None` while the first request is running.
    answer: Option<Answer>,
}

impl UsedKeys {
    /// Refuses a key that was used with other parameters, before these are validated.
    pub(crate) fn check(&self, key: &str, path: &str, form: &Form) -> Result<(), Refusal> {
        match lock(&self.0).entries.get(key) {
            Some(entry) if entry.fingerprint != fingerprint(path, form) => {
                Err(Refusal::key_reused(key))
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn begin(
        &self,
        key: &str,
        path: &str,
        form: &Form,
        now: DateTime<Utc>,
    ) -> Result<Turn, Refusal> {
        if key.len() > MAX_KEY_LENGTH {
            let message = "Idempotency keys can be up to 255 characters long.";
            return Err(Refusal::malformed(message));
        }
        let fingerprint = fingerprint(path, form);
        let mut state = lock(&self.0);
        state.forget_old(now);
        if let Some(entry) = state.entries.get(key) {
            return match &entry.answer {
                _ if entry.fingerprint != fingerprint => Err(Refusal::key_reused(key)),
                None => Err(Refusal::key_in_use(key)),
                Some(answer) => Ok(Turn::Again(answer.clone())),
            };
        }
        state.entries.insert(
            key.to_owned(),
            Entry {
                fingerprint,
                answer: None,
            },
        );
        state.oldest_first.push_back((now, key.to_owned()));
        Ok(Turn::First(Claim {
            keys: Arc::clone(&self.0),
            key: key.to_owned(),
        }))
    }
}

impl State {
    fn forget_old(&mut self, now: DateTime<Utc>) {
        while let Some((since, key)) = self.oldest_first.front() {
            if now - *since < RETENTION && self.oldest_first.len() < MAX_KEYS {
                return;
            }
            self.entries.remove(key);
            self.oldest_first.pop_front();
        }
    }
}

/// A claimed key, released if dropped without a response.
pub(crate) struct Claim {
    keys: Arc<Mutex<State>>,
    key: String,
}

impl Claim {
    /// Stores the response for later requests with this key.
    pub(crate) fn save(self, answer: &Answer) {
        if let Some(entry) = lock(&self.keys).entries.get_mut(&self.key) {
            entry.answer = Some(answer.clone());
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut state = lock(&self.keys);
        if state
            .entries
            .get(&self.key)
            .is_some_and(|entry| entry.answer.is_none())
        {
            state.entries.remove(&self.key);
            state.oldest_first.retain(|(_, key)| *key != self.key);
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state
        .lock()
        .expect("nothing panics while the keys are locked")
}

fn fingerprint(path: &str, form: &Form) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(path);
    for (name, value) in form.pairs() {
        // Length prefixes make the encoding unambiguous.
        hash.update(name.len().to_be_bytes());
        hash.update(name);
        hash.update(value.len().to_be_bytes());
        hash.update(value);
    }
    hash.finalize().into()
}
