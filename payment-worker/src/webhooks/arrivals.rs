//! Group commit of webhooks: those that arrive during a commit share the next. One that moves a
//! payment a plain step is applied in the same transaction; the [`inbox`](super::inbox) applies the
//! others.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use domain::payment::PaymentState;
use futures_util::future::join_all;
use platform::batcher::{BatchLimits, BatchWork, Batcher, Job};
use platform::outbox::Staged;
use platform::pg::run_tx;
use platform::problem::Problem;
use platform::service::Context;
use serde::Deserialize;
use serde_json::json;
use sqlx::PgConnection;

use super::apply::{is_of_interest, measure_lag};
use super::event::Event;
use crate::OWNER;
use crate::moves;
use crate::store::inbox::{self, New};
use crate::store::payments;
use crate::stripe::{Intent, IntentStatus};
use crate::worker::Worker;

/// Time for our own capture to be recorded. Its webhook often overtakes it, and needs no read at
/// Stripe afterwards.
const CAPTURE_RECORDED: TimeDelta = TimeDelta::seconds(2);

/// A verified webhook.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    new: New,
    /// Stripe's time of it, in Unix seconds.
    created: Option<i64>,
    /// The PaymentIntent as it was then, if the event may be applied at once.
    intent: Option<Intent>,
}

impl Arrived {
    /// From a verified event. `is_live` says whether our key moves real money, `None` that it does
    /// not say.
    pub(super) fn new(event: Event, is_live: Option<bool>) -> Self {
        let applied = without_effect(&event, is_live);
        let intent = match event.kind.as_str() {
            "payment_intent.amount_capturable_updated" | "payment_intent.succeeded"
                if applied.is_none() =>
            {
                Intent::deserialize(&event.object).ok()
            }
            _ => None,
        };
        let payload = json!({
            "id": event.id, "type": event.kind, "created": event.created,
            "data": { "object": event.object },
        });
        Self {
            new: New {
                event_id: event.id,
                kind: event.kind,
                payload: payload.to_string(),
                applied,
                due: None,
            },
            created: event.created,
            intent,
        }
    }
}

/// Why an event has no effect here; `None` when it may have one.
fn without_effect(event: &Event, is_live: Option<bool>) -> Option<&'static str> {
    let is_other_mode = |of_key| event.is_live.is_some_and(|of_event| of_event != of_key);
    if event.is_of_another_account {
        Some("an event of a connected account")
    } else if is_live.is_some_and(is_other_mode) {
        Some("an event of the other mode, test or live")
    } else if is_of_interest(&event.kind) {
        None
    } else {
        Some("a type that is of no interest")
    }
}

/// Stores webhooks on behalf of this node's requests.
pub(super) struct Arrivals(Batcher<Store>);

impl Arrivals {
    pub(super) fn new(ctx: Context, worker: Arc<Worker>) -> Self {
        Self(Batcher::new(Store { ctx, worker }, BatchLimits::USUAL))
    }

    /// Stores a webhook; `false` when it was delivered before.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) async fn store(&self, arrived: Arrived) -> Result<bool, Problem> {
        self.0.ask(arrived).await?
    }
}

struct Store {
    ctx: Context,
    worker: Arc<Worker>,
}

impl BatchWork for Store {
    type Item = Arrived;
    type Output = Result<bool, Problem>;

    async fn work(&self, jobs: Vec<Job<Self>>) {
        let (arrived, askers): (Vec<_>, Vec<_>) = jobs.into_iter().map(Job::split).unzip();
        let now = self.worker.now();
        let storing = run_tx(&self.ctx.db, "payment store webhooks", |tx| {
            Box::pin(store_and_apply(tx, &arrived, now))
        });
        match storing.await {
            Ok((mut stored, staged)) => {
                self.ctx.send_soon(staged);
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
    tracing::warn!(
        error,
        "storing a batch of webhooks failed; storing each alone"
    );
}

/// Stores all; returns the new ones, and the messages of payments that moved.
async fn store_and_apply(
    conn: &mut PgConnection,
    arrived: &[Arrived],
    now: DateTime<Utc>,
) -> Result<(HashSet<String>, Staged), sqlx::Error> {
    let mut staged = Staged::of(OWNER);
    let mut new: Vec<_> = arrived.iter().map(|arrived| arrived.new.clone()).collect();
    let Applied { plain, captures } = apply(conn, arrived, now, &mut staged).await?;
    for index in plain {
        new[index].applied = Some("applied");
        measure_lag(arrived[index].created, now);
    }
    for index in captures {
        new[index].due = Some(now + CAPTURE_RECORDED);
    }
    Ok((inbox::insert(conn, &new, now).await?, staged))
}

/// Indices of webhooks.
#[derive(Debug, Default)]
struct Applied {
    plain: Vec<usize>,
    /// Left to the inbox: captures that are not recorded yet.
    captures: Vec<usize>,
}

/// Moves payments that take a plain step. What an event says was true once, so its move is right
/// also when the webhook is a repeat.
async fn apply(
    conn: &mut PgConnection,
    arrived: &[Arrived],
    now: DateTime<Utc>,
    staged: &mut Staged,
) -> Result<Applied, sqlx::Error> {
    let intents: Vec<_> = arrived.iter().filter_map(|a| a.intent.as_ref()).collect();
    let mut applied = Applied::default();
    if intents.is_empty() {
        return Ok(applied);
    }
    let ids: Vec<_> = intents.iter().map(|intent| intent.id.clone()).collect();
    let bookings = payments::bookings_of(conn, &ids).await?;
    let ids: Vec<_> = bookings.values().copied().collect();
    let payments = payments::lock_all(conn, &ids).await?;

    let (mut steps, mut seen) = (Vec::new(), HashSet::new());
    for (index, arrived) in arrived.iter().enumerate() {
        let Some(intent) = &arrived.intent else {
            continue;
        };
        let payment = bookings.get(&intent.id).and_then(|id| payments.get(id));
        // A second event of the same payment is left to the inbox.
        let Some(payment) = payment.filter(|payment| seen.insert(payment.booking_id)) else {
            continue;
        };
        // A capture is believed only after a read, which the inbox does.
        if intent.status == IntentStatus::Succeeded && payment.state != PaymentState::Captured {
            applied.captures.push(index);
        } else if let Some(step) = moves::step(payment, intent) {
            applied.plain.push(index);
            steps.push((payment, step));
        }
    }
    moves::take(conn, steps, now, staged).await?;
    Ok(applied)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use platform::testing::TestApp;

    use super::super::apply;
    use super::super::event::Body;
    use super::*;
    use crate::testing::{self, payment, set_intent};

    fn event(id: &str, kind: &str) -> Arrived {
        event_of(id, kind, "requires_capture")
    }

    fn event_of(id: &str, kind: &str, status: &str) -> Arrived {
        let object = format!(r#"{{"id": "pi_1", "status": "{status}"}}"#);
        let body = format!(r#"{{"id": "{id}", "type": "{kind}", "data": {{"object": {object}}}}}"#);
        match Body::read(body.as_bytes()).unwrap() {
            Body::Event(event) => Arrived::new(event, None),
            Body::Other => panic!("no event: {body}"),
        }
    }

    /// A trigger by which the database refuses this event.
    async fn refuse(app: &TestApp, event_id: &str) {
        let constraint =
            format!("alter table payment.webhook_inbox add check (event_id <> '{event_id}')");
        let altering = sqlx::raw_sql(sqlx::AssertSqlSafe(constraint));
        altering.execute(&app.ctx.db).await.unwrap();
    }

    #[tokio::test]
    async fn one_webhook_that_can_not_be_stored_holds_up_no_other_of_its_batch() {
        let app = TestApp::start().await;
        let worker = testing::worker(&app);
        let [booking] = testing::hold(&worker).await;
        set_intent(&worker, &booking, "pi_1").await;
        refuse(&app, "evt_2").await;
        let arrivals = Arrivals::new(app.ctx.clone(), Arc::clone(&worker));
        let authorised = "payment_intent.amount_capturable_updated";
        let batch = || {
            [
                event("evt_1", authorised),
                event("evt_2", "charge.succeeded"),
                event("evt_3", "charge.captured"),
            ]
        };
        // Submitted before the batcher's task runs, so they form one batch.
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

        // A webhook that is stored alone is applied by the inbox.
        assert_eq!(payment(&worker, &booking).await.unwrap().0, "pending");
        let lease = Duration::from_secs(60);
        let waiting = inbox::claim_due(&worker.db, 10, lease, worker.now()).await;
        let waiting = waiting.unwrap();
        assert_eq!(waiting.len(), 1, "{waiting:?}");
        apply::apply(&worker, &waiting[0]).await.unwrap();
        assert_eq!(payment(&worker, &booking).await.unwrap().0, "authorised");
        app.finish().await;
    }

    #[tokio::test]
    async fn the_webhook_of_our_own_capture_waits_until_that_is_recorded_and_asks_stripe_nothing() {
        let app = TestApp::start().await;
        // Its Stripe does not answer.
        let worker = testing::worker(&app);
        let [booking] = testing::hold(&worker).await;
        set_intent(&worker, &booking, "pi_1").await;
        let arrivals = Arrivals::new(app.ctx.clone(), Arc::clone(&worker));
        let succeeded = event_of("evt_1", "payment_intent.succeeded", "succeeded");
        let arrived = worker.now();
        assert!(arrivals.store(succeeded).await.unwrap());
        let due = async |at| {
            let lease = Duration::from_secs(60);
            inbox::claim_due(&worker.db, 10, lease, at).await.unwrap()
        };
        let too_early = arrived + CAPTURE_RECORDED - TimeDelta::milliseconds(1);
        assert!(due(too_early).await.is_empty());
        let record = "update payment.payments
            set state = 'captured', captured_minor = amount_minor";
        sqlx::query(record).execute(&worker.db).await.unwrap();
        let waiting = due(worker.now() + CAPTURE_RECORDED).await;
        assert_eq!(waiting.len(), 1);
        apply::apply(&worker, &waiting[0]).await.unwrap();
        assert!(due(worker.now() + TimeDelta::days(1)).await.is_empty());
        assert_eq!(payment(&worker, &booking).await.unwrap().0, "captured");
        app.finish().await;
    }
}
