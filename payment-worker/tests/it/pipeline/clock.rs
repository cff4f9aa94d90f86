use std::sync::{Arc, Mutex};

use chrono::{DateTime, TimeDelta, Utc};
use domain::clock::{Clock, SystemClock};

/// The system's clock, which can be advanced.
#[derive(Clone)]
pub(crate) struct JumpingClock(Arc<Mutex<TimeDelta>>);

impl JumpingClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(TimeDelta::zero())))
    }

    pub(crate) fn jump(&self, step: TimeDelta) {
        *self.0.lock().unwrap() += step;
    }
}

impl Clock for JumpingClock {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now() + *self.0.lock().unwrap()
    }
}
