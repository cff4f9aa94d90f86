//! Group commit of webhooks: those that arrive during a commit share the next. One that moves a
//! payment a plain step is applied in the same transaction; the [`inbox`](super::inbox) applies the
//! others.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use platform::batcher::{BatchLimits, BatchWork, Batcher, Job};
use platform::outbox::Staged;
use platform::pg::run_tx;
use platform::problem::Problem;
use platform::service::Context;
use sqlx::PgConnection;

use super::event::{Content, StripeEvent};
use crate::OWNER;
use crate::batch::{self, Batch};
use crate::payments::rules::Source;
use crate::payments::{self, Followed, Report, Scope};
use crate::state::AppState;
use crate::store::inbox;

/// Time for our own capture to be recorded. Its webhook often overtakes it, and needs no read at
/// Stripe afterwards.
const CAPTURE_RECORDED: TimeDelta = TimeDelta::seconds(2);

/// Stores webhooks on behalf of this node's requests.
pub(super) struct Intake(Batcher<Webhooks>);

impl Intake {
    pub(super) fn new(ctx: Context, state: Arc<AppState>) -> Self {
        Self(Batcher::new(Webhooks { ctx, state }, BatchLimits::USUAL))
    }

    /// Stores a verified webhook; `false` when it was delivered before.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) async fn store(&self, event: StripeEvent) -> Result<bool, Problem> {
        self.0.ask(event).await?
    }
}

struct Webhooks {
    ctx: Context,
    state: Arc<AppState>,
}

impl BatchWork for Webhooks {
    type Item = StripeEvent;
    type Output = Result<bool, Problem>;

    async fn work(&self, jobs: Vec<Job<Self>>) {
        let (events, askers): (Vec<_>, Vec<_>) = jobs.into_iter().map(Job::split).unzip();
        let storing = join_all(batch::execute(self, &events).await);
        for (stored, asker) in storing.await.into_iter().zip(askers) {
            asker.answer(stored);
        }
        self.state.webhook_stored.notify_one();
    }
}

impl Batch for Webhooks {
    type Item = StripeEvent;
    type Output = Result<bool, Problem>;

    const ITEMS: &'static str = "webhooks";

    async fn together(
        &self,
        events: &[StripeEvent],
    ) -> Result<Vec<Option<Self::Output>>, sqlx::Error> {
        let now = self.state.now();
        let storing = run_tx(&self.ctx.db, "payment store webhooks", |tx| {
            Box::pin(store_and_apply(tx, events, now))
        });
        let (stored, staged) = storing.await?;
        self.ctx.send_soon(staged);
        Ok(stored.into_iter().map(|is_new| Some(Ok(is_new))).collect())
    }

    /// Only stores it: what it says may be at fault, which the inbox retries.
    async fn alone(&self, event: &StripeEvent) -> Result<bool, Problem> {
        let mut conn = self.ctx.db.acquire().await?;
        let stored = inbox::insert(&mut conn, &[event.row()], self.state.now()).await?;
        Ok(!stored.is_empty())
    }
}

/// Stores webhooks, and moves the payments that take a plain step. What an event says was true
/// once, so its move is right also when the webhook is a repeat. Returns for each whether it is
/// new, and the messages to send after the commit.
async fn store_and_apply(
    conn: &mut PgConnection,
    events: &[StripeEvent],
    now: DateTime<Utc>,
) -> Result<(Vec<bool>, Staged), sqlx::Error> {
    let (indices, reports): (Vec<_>, Vec<_>) = events.iter().enumerate().filter_map(report).unzip();
    let (followed, messages) = payments::follow(conn, &reports, Scope::Plain, now).await?;
    let mut rows: Vec<_> = events.iter().map(StripeEvent::row).collect();
    for (index, followed) in indices.into_iter().zip(followed) {
        match followed {
            Followed::Moved | Followed::Stayed => {
                rows[index].applied = Some("applied");
                events[index].measure_lag(now);
            }
            Followed::Unproven => rows[index].due = Some(now + CAPTURE_RECORDED),
            Followed::Unknown | Followed::Left => {}
        }
    }
    let mut stored = inbox::insert(conn, &rows, now).await?;
    let mut staged = Staged::of(OWNER);
    staged.put_all(conn, messages).await?;
    let is_new = events.iter().map(|event| stored.remove(&event.id));
    Ok((is_new.collect(), staged))
}

fn report((index, event): (usize, &StripeEvent)) -> Option<(usize, Report<'_>)> {
    let Content::Intent(intent) = &event.content else {
        return None;
    };
    let source = Source::Webhook;
    Some((index, Report { intent, source }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use platform::testing::TestApp;

    use super::super::apply::apply;
    use super::*;
    use crate::testing::{self, payment, set_intent};

    fn event(id: &str, kind: &str) -> StripeEvent {
        event_of(id, kind, "requires_capture")
    }

    fn event_of(id: &str, kind: &str, status: &str) -> StripeEvent {
        let object = format!(r#"{{"id": "pi_1", "status": "{status}"}}"#);
        let body = format!(r#"{{"id": "{id}", "type": "{kind}", "data": {{"object": {object}}}}}"#);
        let event = StripeEvent::parse(body.as_bytes(), None).unwrap();
        event.unwrap_or_else(|| panic!("no event: {body}"))
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
        let state = testing::state(&app);
        let [booking] = testing::hold(&state).await;
        set_intent(&state, &booking, "pi_1").await;
        refuse(&app, "evt_2").await;
        let intake = Intake::new(app.ctx.clone(), Arc::clone(&state));
        let authorised = "payment_intent.amount_capturable_updated";
        let batch = || {
            [
                event("evt_1", authorised),
                event("evt_2", "charge.succeeded"),
                event("evt_3", "charge.captured"),
            ]
        };
        // Submitted before the batcher's task runs, so they form one batch.
        let store = async || join_all(batch().map(|event| intake.store(event))).await;
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
        assert_eq!(payment(&state, &booking).await.unwrap().0, "pending");
        let lease = Duration::from_secs(60);
        let waiting = inbox::claim_due(&state.db, 10, lease, state.now()).await;
        let waiting = waiting.unwrap();
        assert_eq!(waiting.len(), 1, "{waiting:?}");
        apply(&state, &waiting[0]).await.unwrap();
        assert_eq!(payment(&state, &booking).await.unwrap().0, "authorised");
        app.finish().await;
    }

    #[tokio::test]
    async fn the_webhook_of_our_own_capture_waits_until_that_is_recorded_and_asks_stripe_nothing() {
        let app = TestApp::start().await;
        // Its Stripe does not answer.
        let state = testing::state(&app);
        let [booking] = testing::hold(&state).await;
        set_intent(&state, &booking, "pi_1").await;
        let intake = Intake::new(app.ctx.clone(), Arc::clone(&state));
        let succeeded = event_of("evt_1", "payment_intent.succeeded", "succeeded");
        let arrived = state.now();
        assert!(intake.store(succeeded).await.unwrap());
        let due = async |at| {
            let lease = Duration::from_secs(60);
            inbox::claim_due(&state.db, 10, lease, at).await.unwrap()
        };
        let too_early = arrived + CAPTURE_RECORDED - TimeDelta::milliseconds(1);
        assert!(due(too_early).await.is_empty());
        let record = "update payment.payments
            set state = 'captured', captured_minor = amount_minor";
        sqlx::query(record).execute(&state.db).await.unwrap();
        let waiting = due(state.now() + CAPTURE_RECORDED).await;
        assert_eq!(waiting.len(), 1);
        apply(&state, &waiting[0]).await.unwrap();
        assert!(due(state.now() + TimeDelta::days(1)).await.is_empty());
        assert_eq!(payment(&state, &booking).await.unwrap().0, "captured");
        app.finish().await;
    }
}
