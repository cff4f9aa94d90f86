use std::sync::{Arc, Mutex};

use chrono::{DateTime, TimeDelta, Utc};
use domain::clock::{Clock, SystemClock};

/// The system's clock, which can be advanced and stopped.
#[derive(Clone)]
pub(crate) struct JumpingClock(Arc<Mutex<State>>);

struct State {
    ahead: TimeDelta,
    stopped_at: Option<DateTime<Utc>>,
}

impl JumpingClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State {
            ahead: TimeDelta::zero(),
            stopped_at: None,
        })))
    }

    pub(crate) fn jump(&self, step: TimeDelta) {
        self.0.lock().unwrap().ahead += step;
    }

    /// From now on only jumps advance it.
    pub(crate) fn stop(&self) {
        self.0.lock().unwrap().stopped_at = Some(SystemClock.now());
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> DateTime<Utc> {
        let state = self.0.lock().unwrap();
        state.stopped_at.unwrap_or_else(|| SystemClock.now()) + state.ahead
    }
}
