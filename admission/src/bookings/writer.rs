//! Group commit of booking requests and of the responses stored for their repeats: a flash sale
//! brings hundreds within the milliseconds that one commit takes.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use domain::clock::SharedClock;
use platform::batcher::{BatchLimits, BatchWork, Batcher, GroupCommit, Grouped, Job, commit_each};
use platform::idempotency::{self, Answered, Begin, Keyed, Token};
use platform::pg::run_tx;
use platform::problem::Problem;
use sqlx::{PgConnection, PgPool};

use crate::store::requests::{self, AcceptedRequest, BookingRequest};

/// A request that passed every check, to be stored.
#[derive(Debug, Clone)]
pub(super) struct NewRequest {
    pub(super) request: BookingRequest,
    /// From the `Idempotency-Key` header.
    pub(super) key: Option<IdempotencyKey>,
}

/// The idempotency key of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct IdempotencyKey {
    /// Caller and route, in which the key is unique.
    pub(super) scope: String,
    /// The key as the client sent it.
    pub(super) key: String,
    /// Caller and key: every attempt gets the same booking id.
    pub(super) request_key: String,
    /// Hash of the request: a repeat with other content is refused.
    pub(super) hash: [u8; 32],
}

/// Outcome of storing a request.
#[derive(Debug)]
pub(super) enum Stored {
    /// Stored; the caller publishes it. The token completes its idempotency key.
    Accepted(AcceptedRequest, Option<Token>),
    /// Not stored: its key was used before.
    Repeated(Begin),
}

/// The node's group-commit writers.
pub(crate) struct RequestWriter {
    requests: Batcher<Requests>,
    answers: Batcher<Grouped<Answers, Problem>>,
}

impl RequestWriter {
    pub(crate) fn new(db: &PgPool, clock: &SharedClock) -> Self {
        let requests = Requests {
            db: db.clone(),
            clock: clock.clone(),
        };
        let answers = Answers { db: db.clone() };
        Self {
            requests: Batcher::new(requests, BatchLimits::USUAL),
            answers: Batcher::new(answers.into(), BatchLimits::USUAL),
        }
    }

    /// Stores a request in the next group commit.
    ///
    /// # Errors
    /// When the database fails; `idempotency-key-reused` when the key belongs to another request.
    pub(super) async fn accept(&self, new: NewRequest) -> Result<Stored, Problem> {
        self.requests.ask(new).await?
    }

    /// Stores a response for replay, in the next group commit.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) async fn store_answer(&self, answer: Answered) -> Result<(), Problem> {
        self.answers.ask(answer).await?
    }
}

struct Requests {
    db: PgPool,
    clock: SharedClock,
}

impl BatchWork for Requests {
    type Item = NewRequest;
    type Output = Result<Stored, Problem>;

    async fn work(&self, jobs: Vec<Job<Self>>) {
        let mut seen = HashSet::new();
        let (mut new, mut askers) = (Vec::new(), Vec::new());
        for Job { item, asker } in jobs {
            let key = item.key.as_ref();
            if key.is_some_and(|key| !seen.insert(key.request_key.clone())) {
                // An earlier one in this batch has the key.
                asker.answer(Ok(Stored::Repeated(Begin::InProgress)));
            } else {
                new.push(item);
                askers.push(asker);
            }
        }
        for (asker, stored) in askers.into_iter().zip(commit_each(self, &new).await) {
            asker.answer(stored.and_then(|stored| stored));
        }
    }
}

impl GroupCommit for Requests {
    type Item = NewRequest;
    type Output = Result<Stored, Problem>;

    async fn commit(&self, new: &[NewRequest]) -> Result<Vec<Self::Output>, sqlx::Error> {
        let now = self.clock.now();
        run_tx(&self.db, "store_requests", |tx| {
            Box::pin(store_all(tx, new, now))
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
        run_tx(&self.db, "store_answers", |tx| {
            Box::pin(store_answers(tx, answers))
        })
        .await?;
        Ok(vec![(); answers.len()])
    }
}

async fn store_answers(conn: &mut PgConnection, answers: &[Answered]) -> Result<(), sqlx::Error> {
    idempotency::finish_all(conn, answers.to_vec()).await
}

async fn store_all(
    conn: &mut PgConnection,
    new: &[NewRequest],
    now: DateTime<Utc>,
) -> Result<Vec<Result<Stored, Problem>>, sqlx::Error> {
    let keyed: Vec<_> = new.iter().filter_map(|new| new.key.as_ref()).collect();
    let mut begun = begin_all(conn, &keyed, now).await?.into_iter();
    let mut begin = |new: &NewRequest| new.key.as_ref().and_then(|_| begun.next());
    let begun: Vec<_> = new.iter().map(|new| (new, begin(new))).collect();

    let fresh: Vec<_> = begun
        .iter()
        .filter(|(_, begin)| matches!(begin, None | Some(Begin::Fresh(_))))
        .map(|(new, _)| {
            let key = new.key.as_ref().map(|key| key.request_key.as_str());
            (key, &new.request)
        })
        .collect();
    let mut accepted = if fresh.is_empty() {
        Vec::new().into_iter()
    } else {
        requests::accept_all(conn, &fresh, now).await?.into_iter()
    };
    let mut stored = Vec::with_capacity(new.len());
    for (new, begin) in begun {
        stored.push(match begin {
            None => Ok(Stored::Accepted(next(&mut accepted), None)),
            Some(Begin::Fresh(token)) => {
                let accepted = next(&mut accepted);
                if accepted.request == new.request {
                    Ok(Stored::Accepted(accepted, Some(token)))
                } else {
                    idempotency::abandon(conn, token).await?;
                    Err(idempotency::reused())
                }
            }
            Some(repeated) => Ok(Stored::Repeated(repeated)),
        });
    }
    Ok(stored)
}

async fn begin_all(
    conn: &mut PgConnection,
    keys: &[&IdempotencyKey],
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

fn next(accepted: &mut impl Iterator<Item = AcceptedRequest>) -> AcceptedRequest {
    accepted.next().expect("one for each request that is new")
}

/// Repeats a request that may not be booked now: the first response to its key; or the request that
/// an earlier call stored when it might be booked, and which may have got seats although that call
/// failed. A fresh key is not claimed: the caller may be allowed to book later.
///
/// # Errors
/// `refusal` when the key is fresh; `idempotency-key-reused` when it belongs to another request.
pub(super) async fn repeat(
    db: &PgPool,
    request: &BookingRequest,
    key: &IdempotencyKey,
    refusal: Problem,
    now: DateTime<Utc>,
) -> Result<Stored, Problem> {
    let refusal = &refusal;
    run_tx(db, "repeat_booking", |tx| {
        Box::pin(async move {
            let token =
                match idempotency::begin(&mut *tx, &key.scope, &key.key, &key.hash, now).await? {
                    Begin::Fresh(token) => token,
                    begun => return Ok(Stored::Repeated(begun)),
                };
            // An error rolls the claim of the key back.
            match requests::repeat(tx, &key.request_key, now).await? {
                Some(accepted) if accepted.request == *request => {
                    Ok(Stored::Accepted(accepted, Some(token)))
                }
                Some(_) => Err(idempotency::reused()),
                None => Err(refusal.clone()),
            }
        })
    })
    .await
}
