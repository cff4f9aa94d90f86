//! Fault injection: rules that select calls, a fault for them, and how often it fires.

use std::sync::Mutex;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

/// Maximum number of rules; adding more drops the oldest.
const MAX_RULES: usize = 1_000;

/// Frequency at which a rule fires.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// On this many further matching calls.
    Next(u32),
    /// On each matching call with this probability, 0 to 1.
    Probability(f64),
}

/// A rule that injects `action` into calls in `scope`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule<S, A> {
    /// The calls it applies to; `None` for all.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub scope: Option<S>,
    /// Frequency at which it fires.
    pub when: When,
    /// Fault to inject.
    pub action: A,
}

/// The active rules. The first that matches and fires decides; at most one fires per call.
///
/// Probabilities are drawn from a seeded generator, so that a run with one caller is reproducible.
#[derive(Debug)]
pub struct Faults<S, A> {
    state: Mutex<State<S, A>>,
    cleared: Notify,
}

#[derive(Debug)]
struct State<S, A> {
    rules: Vec<Rule<S, A>>,
    rng: StdRng,
}

impl<S: PartialEq, A: Clone> Faults<S, A> {
    /// An empty set of rules; probabilities are drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        let state = State {
            rules: Vec::new(),
            rng: StdRng::seed_from_u64(seed),
        };
        Self {
            state: Mutex::new(state),
            cleared: Notify::new(),
        }
    }

    /// Injects `action` into the next `calls` calls in `scope`.
    pub fn next(&self, calls: u32, scope: impl Into<Option<S>>, action: A) {
        self.add(Rule {
            scope: scope.into(),
            when: When::Next(calls),
            action,
        });
    }

    /// Injects `action` into each call in `scope` with `probability` (0 to 1).
    pub fn sometimes(&self, probability: f64, scope: impl Into<Option<S>>, action: A) {
        self.add(Rule {
            scope: scope.into(),
            when: When::Probability(probability),
            action,
        });
    }

    /// Appends a rule.
    pub fn add(&self, rule: Rule<S, A>) {
        let mut state = self.lock();
        if state.rules.len() == MAX_RULES {
            state.rules.remove(0);
        }
        state.rules.push(rule);
    }

    /// Restarts the generator from `seed`.
    pub fn reseed(&self, seed: u64) {
        self.lock().rng = StdRng::seed_from_u64(seed);
    }

    /// Removes every rule, and ends the delays under way.
    pub fn clear(&self) {
        self.lock().rules.clear();
        self.cleared.notify_waiters();
    }

    /// Waits for `time`, or until the faults are cleared.
    pub(crate) async fn delay(&self, time: Duration) {
        // Whichever comes first.
        let _cleared = tokio::time::timeout(time, self.cleared.notified()).await;
    }

    /// Returns the rules that can still fire.
    pub fn rules(&self) -> Vec<Rule<S, A>>
    where
        S: Clone,
    {
        self.lock().rules.clone()
    }

    /// Returns the fault to inject into this call, considering only `relevant` actions.
    pub(crate) fn pick(&self, scope: &S, relevant: impl Fn(&A) -> bool) -> Option<A> {
        let mut state = self.lock();
        let State { rules, rng } = &mut *state;
        let fired = rules.iter_mut().position(|rule| {
            rule.scope.as_ref().is_none_or(|wanted| wanted == scope)
                && relevant(&rule.action)
                && fires(&mut rule.when, rng)
        })?;
        let action = rules[fired].action.clone();
        if rules[fired].when == When::Next(0) {
            rules.remove(fired);
        }
        Some(action)
    }

    /// Draws uniformly from `0..bound`.
    pub(crate) fn draw(&self, bound: f64) -> f64 {
        self.lock().rng.random::<f64>() * bound
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<S, A>> {
        self.state
            .lock()
            .expect("nothing panics while the rules are locked")
    }
}

fn fires(when: &mut When, rng: &mut StdRng) -> bool {
    match when {
        When::Next(0) => false,
        When::Next(left) => {
            *left -= 1;
            true
        }
        When::Probability(chance) => rng.random::<f64>() < *chance,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counted_rule_fires_exactly_so_often_and_only_in_its_scope() {
        let faults = Faults::new(1);
        faults.next(2, "capture", "broken");
        let fired: Vec<_> = ["refund", "capture", "capture", "capture"]
            .iter()
            .map(|scope| faults.pick(scope, |_| true).is_some())
            .collect();
        assert_eq!(fired, [false, true, true, false]);
        assert!(faults.rules().is_empty());
    }

    #[test]
    fn the_same_seed_gives_the_same_faults() {
        let run = |seed| {
            let faults = Faults::new(seed);
            faults.sometimes(0.5, None, ());
            (0..64)
                .map(|_| faults.pick(&"any", |()| true).is_some())
                .collect::<Vec<_>>()
        };
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }
}
