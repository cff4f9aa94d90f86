//! Correlates the booking worker's outcomes with the requests of this node that await them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use domain::BookingId;
use domain::message::{BookingOutcome, Outcome};
use platform::amqp::{Exchange, QueueSpec};
use platform::sync::MutexExt as _;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Bound on requests that await an outcome on one node.
const MAX_WAITING: usize = 10_000;

/// The command that was sent to the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CommandKind {
    /// [`PlaceHold`](domain::message::PlaceHold).
    Hold,
    /// [`CancelBooking`](domain::message::CancelBooking).
    Cancel,
}

type Waiting = Mutex<HashMap<(BookingId, CommandKind), oneshot::Sender<BookingOutcome>>>;

/// Registry of pending requests.
#[derive(Default)]
pub(crate) struct Outcomes(Arc<Waiting>);

/// A pending request, unregistered on drop.
pub(crate) struct PendingOutcome {
    waiting: Arc<Waiting>,
    key: (BookingId, CommandKind),
    outcome: oneshot::Receiver<BookingOutcome>,
}

impl Outcomes {
    /// Registers a request before it is published, so that no outcome is missed; `None` at
    /// capacity, or when the same command for this booking is already pending.
    pub(crate) fn expect(
        &self,
        booking_id: BookingId,
        kind: CommandKind,
    ) -> Option<PendingOutcome> {
        let key = (booking_id, kind);
        let mut waiting = self.0.lock_unpoisoned();
        if waiting.len() >= MAX_WAITING || waiting.contains_key(&key) {
            return None;
        }
        let (sender, outcome) = oneshot::channel();
        waiting.insert(key, sender);
        Some(PendingOutcome {
            waiting: Arc::clone(&self.0),
            key,
            outcome,
        })
    }

    pub(crate) fn deliver(&self, outcome: BookingOutcome) {
        let kinds = match outcome.outcome {
            Outcome::Held(_) | Outcome::Confirmed(_) | Outcome::Rejected(_) => {
                [CommandKind::Hold; 2]
            }
            // A repeated hold whose booking has ended is refused, too.
            Outcome::Cancelled | Outcome::Refused(_) => [CommandKind::Cancel, CommandKind::Hold],
        };
        let mut waiting = self.0.lock_unpoisoned();
        let sender = kinds
            .into_iter()
            .find_map(|kind| waiting.remove(&(outcome.booking_id, kind)));
        if let Some(sender) = sender {
            // The receiver is gone if the request timed out meanwhile.
            let _ = sender.send(outcome);
        }
    }
}

impl PendingOutcome {
    /// Awaits the outcome; `None` after `limit`.
    pub(crate) async fn within(mut self, limit: Duration) -> Option<BookingOutcome> {
        let started = Instant::now();
        let outcome = tokio::time::timeout(limit, &mut self.outcome)
            .await
            .ok()?
            .ok();
        metrics::histogram!("admission_outcome_wait_seconds")
            .record(started.elapsed().as_secs_f64());
        outcome
    }
}

impl Drop for PendingOutcome {
    fn drop(&mut self) {
        self.waiting.lock_unpoisoned().remove(&self.key);
    }
}

/// The transient queue of the outcomes for `node`.
pub(crate) fn queue(node: &str) -> QueueSpec {
    QueueSpec::transient("outcomes").bind(Exchange::Outcomes, node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::DateTime;

    const NOW: Duration = Duration::ZERO;

    fn booking() -> BookingId {
        BookingId::new(DateTime::UNIX_EPOCH)
    }

    #[tokio::test]
    async fn an_outcome_reaches_the_request_that_asked() {
        let (outcomes, booking_id) = (Outcomes::default(), booking());
        let hold = outcomes.expect(booking_id, CommandKind::Hold).unwrap();
        let cancel = outcomes.expect(booking_id, CommandKind::Cancel).unwrap();
        let cancelled = BookingOutcome {
            booking_id,
            outcome: Outcome::Cancelled,
            why: None,
        };
        outcomes.deliver(cancelled.clone());
        assert_eq!(cancel.within(NOW).await, Some(cancelled));
        assert_eq!(hold.within(NOW).await, None);
    }

    #[tokio::test]
    async fn a_request_that_gave_up_is_forgotten() {
        let (outcomes, booking_id) = (Outcomes::default(), booking());
        let first = outcomes.expect(booking_id, CommandKind::Hold).unwrap();
        assert!(outcomes.expect(booking_id, CommandKind::Hold).is_none());
        assert_eq!(first.within(NOW).await, None);
        assert!(outcomes.expect(booking_id, CommandKind::Hold).is_some());
    }
}
