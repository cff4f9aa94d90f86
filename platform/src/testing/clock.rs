use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use domain::clock::{Clock, SharedClock, SystemClock};

/// The machine's clock, but wrong: that of a node without time synchronisation.
#[derive(Debug, Clone, Default)]
pub struct ShiftedClock {
    offset_ms: Arc<AtomicI64>,
}

impl ShiftedClock {
    /// A clock that is ahead of the machine's by `offset`; behind, if it is negative.
    #[must_use]
    pub fn shared(offset: TimeDelta) -> SharedClock {
        let clock = Self::default();
        clock.shift(offset);
        Arc::new(clock)
    }

    /// Makes the clock and its clones jump, to `offset` from the machine's.
    pub fn shift(&self, offset: TimeDelta) {
        self.offset_ms
            .store(offset.num_milliseconds(), Ordering::SeqCst);
    }
}

impl Clock for ShiftedClock {
    fn now(&self) -> DateTime<Utc> {
        SystemClock.now() + TimeDelta::milliseconds(self.offset_ms.load(Ordering::SeqCst))
    }
}
