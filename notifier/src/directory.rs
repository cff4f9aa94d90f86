//! Consumer of `notifier.directory`: where messages go, and what they say about events.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use domain::event::{Event, EventState};
use domain::message::{AccountChanged, EventChanged, Message};
use platform::amqp::{Delivery, Handler, Verdict};
use platform::pg::run_tx;
use sqlx::PgConnection;

use crate::notice::News;
use crate::shared::Shared;
use crate::store::{directory, notifications};

/// Consumer of `notifier.directory`.
pub(crate) struct Directory(pub(crate) Arc<Shared>);

impl Handler for Directory {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let followed = match delivery.name.as_str() {
            AccountChanged::NAME => match delivery.parse() {
                Ok(account) => directory::put_account(&self.0.db, &account).await,
                Err(error) => return error.into(),
            },
            EventChanged::NAME => match delivery.parse() {
                Ok(EventChanged { event }) => self.follow_event(&event).await,
                Err(error) => return error.into(),
            },
            other => {
                return Verdict::DeadLetter(format!("the directory knows no message {other:?}"));
            }
        };
        match followed {
            Ok(()) => Verdict::Ack,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(message = delivery.name, error, "directory could not follow");
                Verdict::retry(&delivery)
            }
        }
    }
}

impl Directory {
    async fn follow_event(&self, event: &Event) -> Result<(), sqlx::Error> {
        let (has_sms, now) = (self.0.has_sms, self.0.now());
        let following = run_tx(&self.0.db, "notifier follow event", |tx| {
            Box::pin(follow_event(tx, event, has_sms, now))
        });
        following.await?;
        self.0.wake_senders();
        Ok(())
    }
}

/// Keeps the event, unless a later version was seen, and writes to everyone who has tickets for it
/// when it matters to them.
async fn follow_event(
    conn: &mut PgConnection,
    event: &Event,
    has_sms: bool,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let known = directory::lock_event(conn, event.id).await?;
    if !directory::put_event(conn, event, remind_at(event)).await? {
        return Ok(());
    }
    let Some(news) = known.and_then(|known| news(&known, event)) else {
        return Ok(());
    };
    notifications::tell_holders(conn, event.id, news, event.version, has_sms, now).await?;
    Ok(())
}

fn remind_at(event: &Event) -> Option<DateTime<Utc>> {
    let before = TimeDelta::seconds(event.reminder_before_seconds?.into());
    event.date.checked_sub_signed(before)
}

/// What those who have tickets should hear of a change.
fn news(before: &Event, after: &Event) -> Option<News> {
    let was_cancelled = before.state == EventState::Cancelled;
    if after.state == EventState::Cancelled {
        return (!was_cancelled).then_some(News::EventCancelled);
    }
    fn told(event: &Event) -> (&str, DateTime<Utc>, &str, &str, &str) {
        (
            &event.name,
            event.date,
            &event.venue,
            &event.city,
            &event.time_zone,
        )
    }
    (was_cancelled || told(before) != told(after)).then_some(News::EventChanged)
}
