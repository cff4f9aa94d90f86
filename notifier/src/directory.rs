//! Consumer of `notifier.directory`: replicates accounts and events, and announces changes of
//! events to ticket holders.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::event::Event;
use domain::message::{AccountChanged, EventChanged, Message};
use platform::amqp::{Delivery, Handler, Verdict};
use platform::pg::run_tx;
use sqlx::PgConnection;

use crate::notice::Announced;
use crate::state::AppState;
use crate::store::{announcements, directory, queue};
use crate::unparsed::retry_unparsed;

/// Consumer of `notifier.directory`.
pub(crate) struct Directory(pub(crate) Arc<AppState>);

impl Handler for Directory {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let followed = match delivery.name.as_str() {
            AccountChanged::NAME => match delivery.parse() {
                Ok(account) => self.follow_account(&account).await,
                Err(error) => return retry_unparsed(&delivery, &error),
            },
            EventChanged::NAME => match delivery.parse() {
                Ok(EventChanged { event }) => self.follow_event(&event).await,
                Err(error) => return retry_unparsed(&delivery, &error),
            },
            _ => return retry_unparsed(&delivery, &"unknown message"),
        };
        match followed {
            Ok(()) => Verdict::Ack,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(message = delivery.name, error, "failed to update directory");
                Verdict::retry(&delivery)
            }
        }
    }
}

impl Directory {
    async fn follow_account(&self, account: &AccountChanged) -> Result<(), sqlx::Error> {
        directory::put_account(&self.0.db, account).await?;
        queue::requeue_unconfirmed(&self.0.db, account.account_id, self.0.now()).await?;
        self.0.wake_senders();
        Ok(())
    }

    async fn follow_event(&self, event: &Event) -> Result<(), sqlx::Error> {
        let (now, delay) = (self.0.now(), self.0.news_delay);
        let following = run_tx(&self.0.db, "notifier follow event", |tx| {
            Box::pin(follow_event(tx, event, delay, now))
        });
        following.await?;
        self.0.announced.notify_one();
        Ok(())
    }
}

/// Upserts the event, unless a later version is stored, and announces a change of name, time, place
/// or state to ticket holders.
async fn follow_event(
    conn: &mut PgConnection,
    event: &Event,
    news_delay: Duration,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let known = directory::lock_event(conn, event.id).await?;
    if !directory::put_event(conn, event, remind_at(event)).await? {
        return Ok(());
    }
    let (Some(known), current) = (known, Announced::of(event)) else {
        return Ok(());
    };
    if known == current {
        return Ok(());
    }
    match (known.cancelled, current.cancelled) {
        (false, true) => announcements::put_cancelled(conn, event.id, event.version, now).await,
        // Changes of a cancelled event are not announced.
        (true, true) => Ok(()),
        (_, false) => {
            let due_at = now + news_delay;
            announcements::put_changed(conn, event, &known, due_at, now).await
        }
    }
}

fn remind_at(event: &Event) -> Option<DateTime<Utc>> {
    let before = TimeDelta::seconds(event.reminder_before_seconds?.into());
    event.date.checked_sub_signed(before)
}
