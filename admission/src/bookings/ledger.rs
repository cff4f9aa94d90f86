//! Group commit of booking requests and of the responses stored for their repeats: a flash sale
//! brings hundreds within the milliseconds that one commit takes.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use domain::clock::SharedClock;
use platform::batcher::{Batcher, GroupCommit, Grouped, Job, Limits, Work, commit_each};
use platform::idempotency::{self, Answered, Begin, Keyed, Token};
use platform::pg::run_tx;
use platform::problem::Problem;
use sqlx::{PgConnection, PgPool};

use crate::store::requests::{self, Order, Request};

/// An order that passed every check, to be stored.
#[derive(Debug, Clone)]
pub(super) struct NewOrder {
    pub(super) order: Order,
    /// From the `Idempotency-Key` header.
    pub(super) key: Option<OrderKey>,
}

/// The idempotency key of an order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct OrderKey {
    /// Caller and route, in which the key is unique.
    pub(super) scope: String,
    /// The key as the client sent it.
    pub(super) key: String,
    /// Caller and key: every attempt gets the same booking id.
    pub(super) request_key: String,
    /// Hash of the order: a repeat with another order is refused.
    pub(super) hash: [u8; 32],
}

/// Outcome of storing an order.
#[derive(Debug)]
pub(super) enum Written {
    /// Stored; the caller publishes it. The token completes its idempotency key.
    Accepted(Request, Option<Token>),
    /// Not stored: its key was used before.
    Repeated(Begin),
}

/// The node's group-commit writers.
pub(crate) struct Ledger {
    orders: Batcher<Orders>,
    answers: Batcher<Grouped<Answers, Problem>>,
}

impl Ledger {
    pub(crate) fn new(db: &PgPool, clock: &SharedClock) -> Self {
        let orders = Orders {
            db: db.clone(),
            clock: clock.clone(),
        };
        let answers = Answers { db: db.clone() };
        Self {
            orders: Batcher::new(orders, Limits::USUAL),
            answers: Batcher::new(answers.into(), Limits::USUAL),
        }
    }

    /// Stores an order in the next group commit.
    ///
    /// # Errors
    /// When the database fails; `idempotency-key-reused` when the key belongs to another order.
    pub(super) async fn accept(&self, order: NewOrder) -> Result<Written, Problem> {
        self.orders.ask(order).await?
    }

    /// Stores a response for replay, in the next group commit.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) async fn keep(&self, answer: Answered) -> Result<(), Problem> {
        self.answers.ask(answer).await?
    }
}

struct Orders {
    db: PgPool,
    clock: SharedClock,
}

impl Work for Orders {
    type Item = NewOrder;
    type Output = Result<Written, Problem>;

    async fn work(&self, jobs: Vec<Job<Self>>) {
        let mut seen = HashSet::new();
        let (mut orders, mut askers) = (Vec::new(), Vec::new());
        for Job { item, asker } in jobs {
            let key = item.key.as_ref();
            if key.is_some_and(|key| !seen.insert(key.request_key.clone())) {
                // An earlier one in this batch has the key.
                asker.answer(Ok(Written::Repeated(Begin::InProgress)));
            } else {
                orders.push(item);
                askers.push(asker);
            }
        }
        for (asker, written) in askers.into_iter().zip(commit_each(self, &orders).await) {
            asker.answer(written.and_then(|written| written));
        }
    }
}

impl GroupCommit for Orders {
    type Item = NewOrder;
    type Output = Result<Written, Problem>;

    async fn commit(&self, orders: &[NewOrder]) -> Result<Vec<Self::Output>, sqlx::Error> {
        let now = self.clock.now();
        run_tx(&self.db, "write_orders", |tx| {
            Box::pin(write_all(tx, orders, now))
        })
        .await
    }
}

struct Answers {
    db: PgPool,
}

impl GroupCommit for Answers {
    type Item = Answered;
    type Output = ();

    async fn commit(&self, answers: &[Answered]) -> Result<Vec<()>, sqlx::Error> {
        run_tx(&self.db, "write_answers", |tx| {
            Box::pin(keep_all(tx, answers))
        })
        .await?;
        Ok(vec![(); answers.len()])
    }
}

async fn keep_all(conn: &mut PgConnection, answers: &[Answered]) -> Result<(), sqlx::Error> {
    idempotency::finish_all(conn, answers.to_vec()).await
}

async fn write_all(
    conn: &mut PgConnection,
    orders: &[NewOrder],
    now: DateTime<Utc>,
) -> Result<Vec<Result<Written, Problem>>, sqlx::Error> {
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
                    Err(idempotency::reused())
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

/// Repeats an order that may not be booked now: the first response to its key; or the request that
/// an earlier call stored when it might be booked, and which may have got seats although that call
/// failed. A fresh key is not claimed: the caller may be allowed to book later.
///
/// # Errors
/// `refusal` when the key is fresh; `idempotency-key-reused` when it belongs to another order.
pub(super) async fn repeat(
    db: &PgPool,
    order: &Order,
    key: &OrderKey,
    refusal: Problem,
    now: DateTime<Utc>,
) -> Result<Written, Problem> {
    let refusal = &refusal;
    run_tx(db, "repeat_booking", |tx| {
        Box::pin(async move {
            let token =
                match idempotency::begin(&mut *tx, &key.scope, &key.key, &key.hash, now).await? {
                    Begin::Fresh(token) => token,
                    begun => return Ok(Written::Repeated(begun)),
                };
            // An error rolls the claim of the key back.
            match requests::repeat(tx, &key.request_key, now).await? {
                Some(request) if request.order == *order => {
                    Ok(Written::Accepted(request, Some(token)))
                }
                Some(_) => Err(idempotency::reused()),
                None => Err(refusal.clone()),
            }
        })
    })
    .await
}
