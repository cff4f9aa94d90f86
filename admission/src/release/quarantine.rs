//! Quarantine of failing sales: a sale that can't be read, drawn, advanced or written is retried
//! with exponential backoff, without stopping the others.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use domain::EventId;

/// First pause; each further failure doubles it.
const FIRST_PAUSE: TimeDelta = TimeDelta::seconds(1);
/// Bounds the pause to 64 s.
const MAX_DOUBLINGS: u32 = 6;

#[derive(Debug, Default)]
pub(super) struct Quarantine(HashMap<EventId, Quarantined>);

#[derive(Debug)]
struct Quarantined {
    until: DateTime<Utc>,
    failures: u32,
}

/// A failed step of a sale.
#[derive(Debug, Clone)]
pub(super) struct SaleFailure {
    pub(super) event_id: EventId,
    /// The step that failed; a closed set, since it labels a metric.
    pub(super) step: &'static str,
    pub(super) error: String,
}

/// Returns whether the error is caused by one sale's rows rather than by PostgreSQL or the network:
/// a data exception (class 22), a constraint violation (23), an error raised by a trigger (P0), or
/// a value that can't be decoded.
pub(super) fn is_of_one_sale(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["22", "23", "P0"]
                .iter()
                .any(|class| code.starts_with(class))
        }),
        sqlx::Error::Decode(_) | sqlx::Error::ColumnDecode { .. } => true,
        _ => false,
    }
}

impl Quarantine {
    /// Returns whether the sale is quarantined at `now`.
    pub(super) fn contains(&self, event_id: EventId, now: DateTime<Utc>) -> bool {
        self.0.get(&event_id).is_some_and(|entry| now < entry.until)
    }

    /// Quarantines the sale with backoff. Only its first failure is logged as an error.
    pub(super) fn add(&mut self, now: DateTime<Utc>, failure: &SaleFailure) {
        let SaleFailure {
            event_id,
            step,
            error,
        } = failure;
        metrics::counter!("admission_sale_failures_total", "step" => *step).increment(1);
        let entry = self.0.entry(*event_id).or_insert(Quarantined {
            until: now,
            failures: 0,
        });
        if entry.failures == 0 {
            tracing::error!(%event_id, step, error, "sale failed, quarantined with backoff");
        } else {
            tracing::debug!(%event_id, step, error, "quarantined sale failed again");
        }
        entry.until = now + FIRST_PAUSE * (1 << entry.failures.min(MAX_DOUBLINGS));
        entry.failures += 1;
        self.measure();
    }

    /// Releases a sale that has advanced.
    pub(super) fn release(&mut self, event_id: EventId) {
        if self.0.remove(&event_id).is_some() {
            tracing::info!(%event_id, "sale released from quarantine");
            self.measure();
        }
    }

    pub(super) fn retain(&mut self, mut is_mine: impl FnMut(EventId) -> bool) {
        self.0.retain(|event_id, _| is_mine(*event_id));
        self.measure();
    }

    fn measure(&self) {
        #[expect(clippy::cast_precision_loss, reason = "a gauge")]
        metrics::gauge!("admission_quarantined_sales").set(self.0.len() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sale_that_fails_again_and_again_is_tried_less_and_less() {
        let mut quarantine = Quarantine::default();
        let mut now = DateTime::UNIX_EPOCH;
        let failure = SaleFailure {
            event_id: EventId(1),
            step: "step",
            error: String::new(),
        };
        let mut pauses = Vec::new();
        for _ in 0..8 {
            quarantine.add(now, &failure);
            let failed_at = now;
            while quarantine.contains(EventId(1), now) {
                now += TimeDelta::seconds(1);
            }
            pauses.push((now - failed_at).num_seconds());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 64]);
        assert!(!quarantine.contains(EventId(2), DateTime::UNIX_EPOCH));
        quarantine.add(now, &failure);
        quarantine.release(EventId(1));
        assert!(!quarantine.contains(EventId(1), now));
    }
}
