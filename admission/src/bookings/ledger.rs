//! Booking requests and the answers to them are written down many at a time: a flash sale brings
//! hundreds within the milliseconds that one commit takes.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use domain::clock::SharedClock;
use platform::idempotency::{self, Answered, Begin, Keyed, Token};
use platform::pg::run_tx;
use platform::problem::Problem;
use sqlx::{PgConnection, PgPool};
use tokio::sync::oneshot;

use super::repeat::reused;
use crate::store::requests::{self, Order, Request};

/// How many entries one transaction takes.
const MAX_BATCH: usize = 256;

/// An order that may be booked, to be written down.
#[derive(Debug, Clone)]
pub(super) struct NewOrder {
    /// The order.
    pub(super) order: Order,
    /// Its `Idempotency-Key`.
    pub(super) key: Option<OrderKey>,
}

/// The key of an order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct OrderKey {
    /// The caller and the route.
    pub(super) scope: String,
    /// The key as the client sent it.
    pub(super) key: String,
    /// The caller and the key: the same booking id for every try.
    pub(super) request_key: String,
    /// What tells the order from others.
    pub(super) hash: [u8; 32],
}

/// What a written order came to.
#[derive(Debug)]
pub(super) enum Written {
    /// It is to be published.
    Accepted(Request, Option<Token>),
    /// Its key says that it is not.
    Repeated(Begin),
}

enum Entry {
    Order(NewOrder, oneshot::Sender<Result<Written, Problem>>),
    Answer(Answered, oneshot::Sender<Result<(), Problem>>),
}

/// Writes on behalf of all requests of this node.
#[derive(Clone)]
pub(crate) struct Ledger(Arc<Shared>);

struct Shared {
    db: PgPool,
    clock: SharedClock,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    entries: Vec<Entry>,
    is_writing: bool,
}

impl Ledger {
    pub(crate) fn new(db: PgPool, clock: SharedClock) -> Self {
        Self(Arc::new(Shared {
            db,
            clock,
            waiting: Mutex::default(),
        }))
    }

    /// Writes an order down.
    ///
    /// # Errors
    /// When the database does not, or its key belongs to another order.
    pub(super) async fn accept(&self, order: NewOrder) -> Result<Written, Problem> {
        let (sender, written) = oneshot::channel();
        self.enter(Entry::Order(order, sender));
        written
            .await
            .unwrap_or_else(|error| Err(Problem::internal(&error)))
    }

    /// Keeps an answer for repeats.
    ///
    /// # Errors
    /// When the database does not.
    pub(super) async fn keep(&self, answer: Answered) -> Result<(), Problem> {
        let (sender, kept) = oneshot::channel();
        self.enter(Entry::Answer(answer, sender));
        kept.await
            .unwrap_or_else(|error| Err(Problem::internal(&error)))
    }

    /// Adds an entry to those that wait; whoever comes first while nobody writes makes a writer.
    fn enter(&self, entry: Entry) {
        let mut waiting = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        waiting.entries.push(entry);
        if !waiting.is_writing {
            waiting.is_writing = true;
            tokio::spawn(self.clone().write_until_none_waits());
        }
    }

    async fn write_until_none_waits(self) {
        while let Some(entries) = self.next_batch() {
            let shared = Arc::clone(&self.0);
            // On its own, so that a panic ends this batch and nothing else; those who wait for it
            // see that nobody answers.
            let _ended = tokio::spawn(async move { shared.write(entries).await }).await;
        }
    }

    /// What waits, or `None` when nothing does and this writer is to leave.
    fn next_batch(&self) -> Option<Vec<Entry>> {
        let mut waiting = self
            .0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if waiting.entries.is_empty() {
            waiting.is_writing = false;
            return None;
        }
        let count = waiting.entries.len().min(MAX_BATCH);
        Some(waiting.entries.drain(..count).collect())
    }
}

impl Shared {
    async fn write(&self, entries: Vec<Entry>) {
        let mut seen = HashSet::new();
        let (mut orders, mut asking, mut answers, mut keeping) = (vec![], vec![], vec![], vec![]);
        for entry in entries {
            match entry {
                Entry::Order(order, sender) => {
                    let key = order.key.as_ref();
                    if key.is_some_and(|key| !seen.insert(key.request_key.clone())) {
                        // The one before it in this batch is the first.
                        let _gone = sender.send(Ok(Written::Repeated(Begin::InProgress)));
                    } else {
                        orders.push(order);
                        asking.push(sender);
                    }
                }
                Entry::Answer(answer, sender) => {
                    answers.push(answer);
                    keeping.push(sender);
                }
            }
        }
        let (now, orders, answers) = (self.clock.now(), &orders, &answers);
        let written = run_tx(&self.db, "write_requests", |tx| {
            Box::pin(write_all(tx, orders, answers, now))
        });
        // Whoever has left needs no answer.
        match written.await {
            Ok(written) => {
                for (sender, written) in asking.into_iter().zip(written) {
                    let _gone = sender.send(written);
                }
                for sender in keeping {
                    let _gone = sender.send(Ok(()));
                }
            }
            Err(error) => {
                let problem = Problem::from(error);
                for sender in asking {
                    let _gone = sender.send(Err(problem.clone()));
                }
                for sender in keeping {
                    let _gone = sender.send(Err(problem.clone()));
                }
            }
        }
    }
}

async fn write_all(
    conn: &mut PgConnection,
    orders: &[NewOrder],
    answers: &[Answered],
    now: DateTime<Utc>,
) -> Result<Vec<Result<Written, Problem>>, sqlx::Error> {
    if !answers.is_empty() {
        idempotency::finish_all(conn, answers.to_vec()).await?;
    }
    let keyed: Vec<_> = orders
        .iter()
        .filter_map(|order| order.key.as_ref())
        .collect();
    let mut begun = begin_all(conn, &keyed, now).await?.into_iter();
    let mut begin = |order: &NewOrder| order.key.as_ref().and_then(|_| begun.next());
    let begun: Vec<_> = orders.iter().map(|order| (order, begin(order))).collect();

    let fresh: Vec<_> = begun
        .iter()
        .filter(|(_, begin)| matches!(begin, None | Some(Begin::Fresh(_))))
        .map(|(order, _)| {
            let key = order.key.as_ref().map(|key| key.request_key.as_str());
            (key, &order.order)
        })
        .collect();
    let mut accepted = if fresh.is_empty() {
        Vec::new().into_iter()
    } else {
        requests::accept_all(conn, &fresh, now).await?.into_iter()
    };
    let mut written = Vec::with_capacity(orders.len());
    for (order, begin) in begun {
        written.push(match begin {
            None => Ok(Written::Accepted(next(&mut accepted), None)),
            Some(Begin::Fresh(token)) => {
                let request = next(&mut accepted);
                if request.order == order.order {
                    Ok(Written::Accepted(request, Some(token)))
                } else {
                    idempotency::abandon(conn, token).await?;
                    Err(reused())
                }
            }
            Some(repeated) => Ok(Written::Repeated(repeated)),
        });
    }
    Ok(written)
}

async fn begin_all(
    conn: &mut PgConnection,
    keys: &[&OrderKey],
    now: DateTime<Utc>,
) -> Result<Vec<Begin>, sqlx::Error> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let keyed = keys.iter().map(|key| Keyed {
        scope: &key.scope,
        key: &key.key,
        request_hash: key.hash,
    });
    idempotency::begin_all(conn, &keyed.collect::<Vec<_>>(), now).await
}

fn next(accepted: &mut impl Iterator<Item = Request>) -> Request {
    accepted
        .next()
        .expect("one request for each order that is new")
}

/// The key of an order that was not accepted is not kept: who may not book now may do so later.
///
/// # Errors
/// `refusal`, unless the key says that the order was answered before.
pub(super) async fn answer_before(
    db: &PgPool,
    key: &OrderKey,
    refusal: Problem,
    now: DateTime<Utc>,
) -> Result<Begin, Problem> {
    let refusal = &refusal;
    run_tx(db, "look_up_booking", |tx| {
        Box::pin(async move {
            match idempotency::begin(tx, &key.scope, &key.key, &key.hash, now).await? {
                // Undone by the error.
                Begin::Fresh(_) => Err(refusal.clone()),
                begun => Ok(begun),
            }
        })
    })
    .await
}
