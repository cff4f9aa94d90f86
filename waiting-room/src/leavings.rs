//! Group commit of leavings: the row that orders a sale's joins is locked once per batch, so that a
//! crowd that leaves does not block joins.

use std::time::Duration;

use domain::clock::SharedClock;
use domain::{AccountId, EventId, Number};
use platform::batcher::{BatchLimits, BatchWork, Batcher, Job};
use platform::problem::Problem;
use platform::service::Context;
use sqlx::PgPool;

use crate::store;

/// Leavings are not urgent, so their batches collect for longer than those of joins.
const LIMITS: BatchLimits = BatchLimits {
    batch: 2_000,
    waiting: 100_000,
    pace: Duration::from_millis(100),
    ..BatchLimits::USUAL
};

/// Batcher of one sale's leavings on this node.
pub(crate) struct Leavings(Batcher<Leave>);

struct Leave {
    event_id: EventId,
    db: PgPool,
    clock: SharedClock,
}

impl Leavings {
    pub(crate) fn new(ctx: &Context, event_id: EventId) -> Self {
        let leave = Leave {
            event_id,
            db: ctx.db.clone(),
            clock: ctx.clock.clone(),
        };
        Self(Batcher::new(leave, LIMITS))
    }

    /// Records that `joiner` left with `number`.
    ///
    /// # Errors
    /// `overloaded` when too many leave at once or PostgreSQL does not answer; safe to retry.
    pub(crate) async fn leave(&self, joiner: AccountId, number: Number) -> Result<(), Problem> {
        self.0.ask((joiner, number)).await?
    }
}

impl BatchWork for Leave {
    type Item = (AccountId, Number);
    type Output = Result<(), Problem>;

    async fn work(&self, jobs: Vec<Job<Self>>) {
        let leavers: Vec<_> = jobs.iter().map(|job| job.item).collect();
        let outcome = store::leave(&self.db, self.event_id, &leavers, self.clock.now()).await;
        let answer = outcome.map_err(Problem::from);
        for job in jobs {
            job.asker.answer(answer.clone());
        }
    }
}
