//! Group commit of joins: while one batch commits, the next collects. No response is sent before
//! the commit.

mod limits;

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::clock::SharedClock;
use domain::{AccountId, EventId, Number};
use platform::batcher::{
    BatchLimits, BatchWork, Batcher, GroupCommit, Job, Unanswered, commit_each,
};
use platform::limits::AddressGroup;
use platform::problem::{Kind, Problem};
use platform::service::Context;
use sqlx::PgPool;

use crate::store::{self, IssuedNumber, NumberRequest};
pub(crate) use limits::JoinLimits;

/// Bounds on the joins of one transaction, which takes some tens of milliseconds, and on those
/// waiting on this node for one sale.
const LIMITS: BatchLimits = BatchLimits {
    batch: 2_000,
    waiting: 100_000,
    // A crowd fills the batches by itself, so commits need no pacing.
    pace: Duration::ZERO,
    ..BatchLimits::USUAL
};

/// Batcher of one sale's joins on this node.
pub(crate) struct Joins(Batcher<Numbers>);

/// Applies limits to a batch and issues its numbers.
struct Numbers {
    event_id: EventId,
    db: PgPool,
    clock: SharedClock,
    limits: JoinLimits,
}

/// Network of a join, and the lobby it enters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JoinOrigin {
    pub(crate) group: AddressGroup,
    /// Size of the lobby, if its order is drawn.
    pub(crate) lobby: Option<i64>,
}

/// A request to join.
struct JoinRequest {
    number: NumberRequest,
    from: JoinOrigin,
}

type Join = Job<Numbers>;

impl Joins {
    pub(crate) fn new(ctx: &Context, event_id: EventId, limits: JoinLimits) -> Self {
        let numbers = Numbers {
            event_id,
            db: ctx.db.clone(),
            clock: ctx.clock.clone(),
            limits,
        };
        Self(Batcher::new(numbers, LIMITS))
    }

    /// Returns the number of `joiner`: its present one, or a new one at the end when it has none or
    /// has left. With `used_up`, also a new one if that is its present number.
    ///
    /// # Errors
    /// `rate-limited` over the shared limits; `overloaded` when too many join at once or PostgreSQL
    /// does not answer: then the number may have been issued, and a retry returns it.
    pub(crate) async fn join(
        &self,
        joiner: AccountId,
        from: JoinOrigin,
        used_up: Option<Number>,
    ) -> Result<IssuedNumber, Problem> {
        let number = NumberRequest { joiner, used_up };
        let issued = self.0.ask(JoinRequest { number, from }).await;
        issued.unwrap_or_else(|unanswered| Err(refusal(unanswered)))
    }
}

fn refusal(unanswered: Unanswered) -> Problem {
    match unanswered {
        Unanswered::Full => Problem::new(
            Kind::Overloaded,
            "Too many people are joining; try again in a moment.",
        ),
        Unanswered::Failed => Problem::overloaded(&unanswered),
    }
}

impl BatchWork for Numbers {
    type Item = JoinRequest;
    type Output = Result<IssuedNumber, Problem>;

    async fn work(&self, batch: Vec<Join>) {
        metrics::histogram!("waiting_room_join_batch_size").record(batch_size(&batch));
        let now = self.clock.now();
        let batch = self.limits.admit(self.event_id, batch, now).await;
        let batch = self.admit_to_lobby(batch, now).await;
        if batch.is_empty() {
            return;
        }
        let (requests, request_of) = requests(&batch);
        let issued = commit_each(self, &requests).await;
        self.answer(batch, request_of, &issued, now).await;
    }
}

impl GroupCommit for Numbers {
    type Item = NumberRequest;
    type Output = IssuedNumber;

    async fn commit(&self, requests: &[NumberRequest]) -> Result<Vec<IssuedNumber>, sqlx::Error> {
        store::join(&self.db, self.event_id, requests, self.clock.now()).await
    }
}

impl Numbers {
    /// Applies the lobby's limit, if there is a lobby. Accounts that have joined before pass.
    async fn admit_to_lobby(&self, batch: Vec<Join>, now: DateTime<Utc>) -> Vec<Join> {
        let Some(joined) = batch.iter().filter_map(|join| join.item.from.lobby).max() else {
            return batch;
        };
        let joiners: Vec<AccountId> = batch.iter().map(|join| join.item.number.joiner).collect();
        // An outage of PostgreSQL surfaces in the join itself.
        let known = store::numbers_of(&self.db, self.event_id, &joiners).await;
        let known = known.unwrap_or_default();
        let is_known = |join: &Join| known.contains_key(&join.item.number.joiner);
        let (mut repeated, new): (Vec<Join>, Vec<Join>) = batch.into_iter().partition(is_known);
        let admitted = self
            .limits
            .admit_to_lobby(self.event_id, new, joined, now)
            .await;
        repeated.extend(admitted);
        repeated
    }

    async fn answer(
        &self,
        batch: Vec<Join>,
        request_of: Vec<usize>,
        issued: &[Result<IssuedNumber, Problem>],
        now: DateTime<Utc>,
    ) {
        let mut repeated = Vec::new();
        for (join, nth) in batch.into_iter().zip(request_of) {
            match issued.get(nth) {
                Some(Ok(own)) if own.is_new => join.asker.answer(Ok(*own)),
                Some(Ok(own)) => repeated.push((join, *own)),
                Some(Err(problem)) => join.asker.answer(Err(problem.clone())),
                None => join.asker.answer(Err(Problem::defect())),
            }
        }
        let admitted = self.limits.admit_again(self.event_id, repeated, now);
        for (join, own) in admitted.await {
            join.asker.answer(Ok(own));
        }
    }
}

/// Deduplicates joiners; returns them, and for each job the index of its joiner.
fn requests(batch: &[Join]) -> (Vec<NumberRequest>, Vec<usize>) {
    let mut known = HashMap::with_capacity(batch.len());
    let mut requests: Vec<NumberRequest> = Vec::with_capacity(batch.len());
    let request_of = batch.iter().map(|join| {
        let own = join.item.number;
        let nth = *known.entry(own.joiner).or_insert(requests.len());
        match requests.get_mut(nth) {
            Some(first) => first.used_up = first.used_up.or(own.used_up),
            None => requests.push(own),
        }
        nth
    });
    let request_of = request_of.collect();
    (requests, request_of)
}

fn batch_size(batch: &[Join]) -> f64 {
    u32::try_from(batch.len()).map_or(f64::NAN, f64::from)
}
