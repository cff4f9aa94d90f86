//! Webhooks are stored many at a time: those that came while the last commit ran share the next.
//! One that moves a payment a simple step has its effect in the same transaction, and is stored as
//! applied; the [`inbox`](super::inbox) takes care of the others.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::future::join_all;
use platform::lane::{Job, Lane, Limits, Work};
use platform::outbox::Kept;
use platform::pg::run_tx;
use platform::problem::Problem;
use platform::service::Context;
use serde::Deserialize;
use sqlx::PgConnection;

use super::apply::{is_of_interest, measure_lag};
use crate::OWNER;
use crate::moves;
use crate::store::inbox::{self, New};
use crate::store::payments;
use crate::stripe::Intent;
use crate::worker::Worker;

/// A verified webhook.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    new: New,
    /// When Stripe made it, in Unix seconds.
    created: Option<i64>,
    /// The PaymentIntent as it was then, if the event may have its effect at once.
    intent: Option<Intent>,
}

#[derive(Deserialize)]
struct Envelope {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    created: Option<i64>,
}

#[derive(Deserialize)]
struct Content {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    object: Intent,
}

impl Arrived {
    /// Reads what a signature was verified for.
    ///
    /// # Errors
    /// When it is no event.
    pub(super) fn read(body: &[u8]) -> serde_json::Result<Self> {
        let body = std::str::from_utf8(body).map_err(serde::de::Error::custom)?;
        let Envelope { id, kind, created } = serde_json::from_str(body)?;
        let intent = match kind.as_str() {
            "payment_intent.amount_capturable_updated" | "payment_intent.succeeded" => {
                let content: Option<Content> = serde_json::from_str(body).ok();
                content.map(|content| content.data.object)
            }
            _ => None,
        };
        let applied = (!is_of_interest(&kind)).then_some("a type that is of no interest");
        Ok(Self {
            new: New {
                event_id: id,
                kind,
                payload: body.to_owned(),
                applied,
            },
            created,
            intent,
        })
    }
}

/// Stores on behalf of all requests of this node.
pub(super) struct Arrivals(Lane<Store>);

impl Arrivals {
    pub(super) fn new(ctx: Context, worker: Arc<Worker>) -> Self {
        Self(Lane::new(Store { ctx, worker }, Limits::USUAL))
    }

    /// Stores a webhook; `false` when it was delivered before.
    ///
    /// # Errors
    /// When the database does not.
    pub(super) async fn store(&self, arrived: Arrived) -> Result<bool, Problem> {
        self.0.ask(arrived).await?
    }
}

struct Store {
    ctx: Context,
    worker: Arc<Worker>,
}

impl Work for Store {
    type Item = Arrived;
    type Answer = Result<bool, Problem>;

    async fn work(&self, jobs: Vec<Job<Self>>) {
        let (arrived, askers): (Vec<_>, Vec<_>) = jobs.into_iter().map(Job::split).unzip();
        let now = self.worker.now();
        let storing = run_tx(&self.ctx.db, "payment store webhooks", |tx| {
            Box::pin(store_and_apply(tx, &arrived, now))
        });
        match storing.await {
            Ok((mut stored, kept)) => {
                kept.send_soon(&self.ctx);
                for (arrived, asker) in arrived.iter().zip(askers) {
                    asker.answer(Ok(stored.remove(&arrived.new.event_id)));
                }
            }
            Err(error) => {
                log(&error);
                let alone = arrived.iter().map(|arrived| self.store_alone(arrived, now));
                for (stored, asker) in join_all(alone).await.into_iter().zip(askers) {
                    asker.answer(stored);
                }
            }
        }
        self.worker.webhook_stored.notify_one();
    }
}

impl Store {
    async fn store_alone(&self, arrived: &Arrived, now: DateTime<Utc>) -> Result<bool, Problem> {
        let mut conn = self.ctx.db.acquire().await.map_err(Problem::from)?;
        let stored = inbox::insert(&mut conn, std::slice::from_ref(&arrived.new), now).await;
        stored
            .map(|stored| !stored.is_empty())
            .map_err(Problem::from)
    }
}

fn log(error: &sqlx::Error) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(error, "webhooks not stored together; storing each alone");
}

/// Stores all; gives the new ones, and the messages about payments that moved.
async fn store_and_apply(
    conn: &mut PgConnection,
    arrived: &[Arrived],
    now: DateTime<Utc>,
) -> Result<(HashSet<String>, Kept), sqlx::Error> {
    let mut kept = Kept::of(OWNER);
    let mut new: Vec<_> = arrived.iter().map(|arrived| arrived.new.clone()).collect();
    for index in apply(conn, arrived, now, &mut kept).await? {
        new[index].applied = Some("applied");
        measure_lag(arrived[index].created, now);
    }
    Ok((inbox::insert(conn, &new, now).await?, kept))
}

/// Moves the payments that take a simple step. Gives the places of the webhooks that had their
/// effect. What an event says was true once, so a move is right also when it was told before.
async fn apply(
    conn: &mut PgConnection,
    arrived: &[Arrived],
    now: DateTime<Utc>,
    kept: &mut Kept,
) -> Result<Vec<usize>, sqlx::Error> {
    let intents: Vec<_> = arrived.iter().filter_map(|a| a.intent.as_ref()).collect();
    if intents.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = intents.iter().map(|intent| intent.id.clone()).collect();
    let bookings = payments::bookings_of(conn, &ids).await?;
    let ids: Vec<_> = bookings.values().copied().collect();
    let payments = payments::lock_all(conn, &ids).await?;

    let (mut applied, mut steps, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for (index, arrived) in arrived.iter().enumerate() {
        let Some(intent) = &arrived.intent else {
            continue;
        };
        let payment = bookings.get(&intent.id).and_then(|id| payments.get(id));
        // A second event of a payment waits for what the first does.
        let Some(payment) = payment.filter(|payment| seen.insert(payment.booking_id)) else {
            continue;
        };
        if let Some(step) = moves::step(payment, intent) {
            applied.push(index);
            steps.push((payment, step));
        }
    }
    moves::take(conn, steps, now, kept).await?;
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use platform::testing::TestApp;

    use super::super::apply;
    use super::*;
    use crate::testing::{self, payment, set_intent};

    fn event(id: &str, kind: &str, note: &str) -> Arrived {
        let object =
            format!(r#"{{"id": "pi_1", "status": "requires_capture", "description": "{note}"}}"#);
        let body = format!(r#"{{"id": "{id}", "type": "{kind}", "data": {{"object": {object}}}}}"#);
        Arrived::read(body.as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn one_webhook_that_can_not_be_stored_holds_up_no_other_of_its_batch() {
        let app = TestApp::start().await;
        let worker = testing::worker(&app);
        let [booking] = testing::hold(&worker).await;
        set_intent(&worker, &booking, "pi_1").await;
        let arrivals = Arrivals::new(app.ctx.clone(), Arc::clone(&worker));
        let authorised = "payment_intent.amount_capturable_updated";
        let batch = || {
            [
                event("evt_1", authorised, ""),
                // PostgreSQL's JSON has no place for this character.
                event("evt_2", "charge.succeeded", r"\u0000"),
                event("evt_3", "charge.captured", ""),
            ]
        };
        // Asked for before the lane's task runs, so they are one batch.
        let store = async || join_all(batch().map(|event| arrivals.store(event))).await;
        let stored = store().await;
        assert!(
            matches!(stored.as_slice(), [Ok(true), Err(_), Ok(true)]),
            "{stored:?}"
        );
        let again = store().await;
        assert!(
            matches!(again.as_slice(), [Ok(false), Err(_), Ok(false)]),
            "{again:?}"
        );

        // What is stored alone has its effect a little later.
        assert_eq!(payment(&worker, &booking).await.unwrap().0, "pending");
        let lease = Duration::from_secs(60);
        let waiting = inbox::claim_due(&worker.db, 10, lease, worker.now()).await;
        let waiting = waiting.unwrap();
        assert_eq!(waiting.len(), 1, "{waiting:?}");
        apply::apply(&worker, &waiting[0]).await.unwrap();
        assert_eq!(payment(&worker, &booking).await.unwrap().0, "authorised");
        app.finish().await;
    }
}
