//! Joins that arrive together share a transaction: while one batch is being committed, the next
//! collects. Nobody is answered before the commit.

mod limits;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use domain::clock::SharedClock;
use domain::{AccountId, EventId, Number};
use platform::limits::AddressGroup;
use platform::problem::{Kind, Problem};
use platform::service::Context;
use sqlx::PgPool;
use tokio::sync::oneshot;

use crate::store::{self, Asks, Given};
pub(crate) use limits::JoinLimits;

/// Most joins of one transaction: it takes some tens of milliseconds.
const MAX_BATCH: usize = 2_000;
/// Most joins that wait on this node for one sale; more are refused.
const MAX_WAITING: usize = 100_000;

/// The joins of one sale on this node.
#[derive(Clone)]
pub(crate) struct Joins(Arc<Inner>);

struct Inner {
    event_id: EventId,
    db: PgPool,
    clock: SharedClock,
    limits: JoinLimits,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<Wish>,
    /// Whether a task works through it.
    is_worked: bool,
}

/// The wish to join.
struct Wish {
    asks: Asks,
    group: AddressGroup,
    answer: oneshot::Sender<Result<Given, Problem>>,
}

impl Joins {
    pub(crate) fn new(ctx: &Context, event_id: EventId, limits: JoinLimits) -> Self {
        Self(Arc::new(Inner {
            event_id,
            db: ctx.db.clone(),
            clock: ctx.clock.clone(),
            limits,
            queue: Mutex::default(),
        }))
    }

    /// The number of `joiner`, who comes from `group`: the one it has, or a new one at the end
    /// when it has none or has left. With `used_up`, a new one if it still has that one.
    ///
    /// # Errors
    /// `rate-limited` over the limits across nodes, `overloaded` when PostgreSQL does not answer:
    /// then the number may be given, and asking again returns it.
    pub(crate) async fn join(
        &self,
        joiner: AccountId,
        group: AddressGroup,
        used_up: Option<Number>,
    ) -> Result<Given, Problem> {
        let (answer, answered) = oneshot::channel();
        let wish = Wish {
            asks: Asks { joiner, used_up },
            group,
            answer,
        };
        self.add(wish)?;
        answered.await.unwrap_or_else(|_| Err(Problem::defect()))
    }

    fn add(&self, wish: Wish) -> Result<(), Problem> {
        let mut queue = self.0.lock();
        if queue.waiting.len() >= MAX_WAITING {
            return Err(Problem::new(
                Kind::Overloaded,
                "Too many people join at this moment; try again in a moment.",
            ));
        }
        queue.waiting.push(wish);
        if !queue.is_worked {
            queue.is_worked = true;
            let joins = self.clone();
            // Not of the request, which its caller may give up.
            tokio::spawn(async move { joins.work().await });
        }
        Ok(())
    }

    /// Gives numbers until nobody waits.
    async fn work(&self) {
        let _stops = Stops(&self.0);
        while let Some(batch) = self.0.next_batch() {
            self.0.give(batch).await;
        }
    }
}

/// Should the work panic, the next join begins it anew.
struct Stops<'a>(&'a Inner);

impl Drop for Stops<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().is_worked = false;
        }
    }
}

impl Inner {
    fn lock(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who waits; `None`, and the work is over, when nobody does.
    fn next_batch(&self) -> Option<Vec<Wish>> {
        let mut queue = self.lock();
        if queue.waiting.is_empty() {
            queue.is_worked = false;
            return None;
        }
        let count = queue.waiting.len().min(MAX_BATCH);
        let rest = queue.waiting.split_off(count);
        Some(std::mem::replace(&mut queue.waiting, rest))
    }

    async fn give(&self, batch: Vec<Wish>) {
        metrics::histogram!("waiting_room_join_batch_size").record(batch_size(&batch));
        let now = self.clock.now();
        let batch = self.limits.admit(self.event_id, batch, now).await;
        if batch.is_empty() {
            return;
        }
        let (asks, asks_of) = asks(&batch);
        match store::join(&self.db, self.event_id, &asks, now).await {
            Ok(given) => self.answer(batch, asks_of, &given, now).await,
            Err(error) => {
                let problem = Problem::from(error);
                for wish in batch {
                    wish.tell(Err(problem.clone()));
                }
            }
        }
    }

    async fn answer(
        &self,
        batch: Vec<Wish>,
        asks_of: Vec<usize>,
        given: &[Given],
        now: DateTime<Utc>,
    ) {
        let mut repeated = Vec::new();
        for (wish, nth) in batch.into_iter().zip(asks_of) {
            match given.get(nth) {
                Some(own) if own.is_new => wish.tell(Ok(*own)),
                Some(own) => repeated.push((wish, *own)),
                None => wish.tell(Err(Problem::defect())),
            }
        }
        let asker = |(wish, _): &(Wish, Given)| wish.asks.joiner;
        let refuse = |(wish, _): (Wish, Given), problem| wish.tell(Err(problem));
        let limits = &self.limits;
        let admitted = limits.admit_again(self.event_id, repeated, asker, refuse, now);
        for (wish, own) in admitted.await {
            wish.tell(Ok(own));
        }
    }
}

/// Each joiner once, whatever the number of its wishes; and of each wish, which of them.
fn asks(batch: &[Wish]) -> (Vec<Asks>, Vec<usize>) {
    let mut known = HashMap::with_capacity(batch.len());
    let mut asks: Vec<Asks> = Vec::with_capacity(batch.len());
    let asks_of = batch.iter().map(|wish| {
        let nth = *known.entry(wish.asks.joiner).or_insert(asks.len());
        match asks.get_mut(nth) {
            Some(first) => first.used_up = first.used_up.or(wish.asks.used_up),
            None => asks.push(wish.asks),
        }
        nth
    });
    let asks_of = asks_of.collect();
    (asks, asks_of)
}

fn batch_size(batch: &[Wish]) -> f64 {
    u32::try_from(batch.len()).map_or(f64::NAN, f64::from)
}

impl Wish {
    fn tell(self, answer: Result<Given, Problem>) {
        // Whoever asked may be gone; the number stays theirs.
        let _ = self.answer.send(answer);
    }
}
