//! Batched lookups of accounts' numbers: many pages that are reopened at once cost one query.

use std::time::Duration;

use domain::{AccountId, EventId, Number};
use platform::batcher::{BatchLimits, BatchWork, Batcher, Job};
use platform::problem::Problem;
use platform::service::Context;
use sqlx::PgPool;

use crate::store;

const LIMITS: BatchLimits = BatchLimits {
    batch: 2_000,
    waiting: 20_000,
    pace: Duration::from_millis(50),
    ..BatchLimits::USUAL
};

/// Batcher of one sale's lookups on this node.
pub(crate) struct Lookups(Batcher<Lookup>);

struct Lookup {
    event_id: EventId,
    db: PgPool,
}

impl Lookups {
    pub(crate) fn new(ctx: &Context, event_id: EventId) -> Self {
        let db = ctx.db.clone();
        Self(Batcher::new(Lookup { event_id, db }, LIMITS))
    }

    /// Returns the number of `joiner`, if it has joined.
    ///
    /// # Errors
    /// `overloaded` when too many ask at once or PostgreSQL does not answer.
    pub(crate) async fn number_of(&self, joiner: AccountId) -> Result<Option<Number>, Problem> {
        self.0.ask(joiner).await?
    }
}

impl BatchWork for Lookup {
    type Item = AccountId;
    type Output = Result<Option<Number>, Problem>;

    async fn work(&self, jobs: Vec<Job<Self>>) {
        let joiners: Vec<AccountId> = jobs.iter().map(|job| job.item).collect();
        match store::numbers_of(&self.db, self.event_id, &joiners).await {
            Ok(numbers) => {
                for job in jobs {
                    let number = numbers.get(&job.item).copied();
                    job.asker.answer(Ok(number));
                }
            }
            Err(error) => {
                let problem = Problem::from(error);
                for job in jobs {
                    job.asker.answer(Err(problem.clone()));
                }
            }
        }
    }
}
