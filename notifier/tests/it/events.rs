//! Event news to ticket holders.

use std::sync::Arc;

use chrono::TimeDelta;
use domain::BookingId;
use domain::clock::{Clock, ManualClock, SystemClock};
use domain::event::{Event, EventState};
use domain::message::EventChanged;
use platform::testing::eventually;
use stand_ins::mail::{self, MailFault};

use crate::stage::{EMAIL, PHONE, SOON, Stage, event};

impl Stage {
    /// Returns the event versions of a booking's `event_changed` notifications.
    async fn occasions(&self, id: BookingId) -> Vec<i64> {
        sqlx::query_scalar(
            "select occasion from notifier.notifications
             where booking_id = $1 and kind = 'event_changed'",
        )
        .bind(id.0)
        .fetch_all(&self.app.ctx.db)
        .await
        .unwrap()
    }
}

#[tokio::test]
async fn everyone_with_tickets_hears_once_that_an_event_moved() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let (one, two) = (stage.pay(&event).await, stage.pay(&event).await);
    let given_up = stage.pay(&event).await;
    for paid in [&one, &two, &given_up] {
        stage
            .mail_is(paid.booking.booking_id, "confirmed", "sent")
            .await;
    }
    stage.cancel(&given_up).await;
    stage
        .mail_is(given_up.booking.booking_id, "cancelled", "sent")
        .await;

    let moved = Event {
        version: 2,
        date: event.date + TimeDelta::days(1),
        ..event
    };
    stage
        .tell(&EventChanged {
            event: moved.clone(),
        })
        .await;
    for paid in [&one, &two] {
        let id = paid.booking.booking_id;
        stage.mail_is(id, "event_changed", "sent").await;
        let mails = stage.mails(id, "event_changed");
        assert_eq!(mails.len(), 1);
        let expected = format!("event_changed.2.{id}@onsale.test");
        assert_eq!(mails[0].message_id.as_deref(), Some(&*expected));
        let entry = mails[0].attachments().pop().unwrap().content;
        let start = moved.date.format("DTSTART:%Y%m%dT%H%M%SZ").to_string();
        assert!(String::from_utf8(entry).unwrap().contains(&start));
    }
    let kinds = stage.rows(given_up.booking.booking_id).await;
    assert!(
        kinds.iter().all(|row| row.kind != "event_changed"),
        "{kinds:?}"
    );
    stage.app.finish().await;
}

#[tokio::test]
async fn a_change_that_does_not_matter_is_not_told_and_an_old_version_is_ignored() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let paid = stage.pay(&event).await;
    let id = paid.booking.booking_id;
    stage.mail_is(id, "confirmed", "sent").await;

    let described = Event {
        version: 3,
        description: "New".into(),
        ..event.clone()
    };
    stage
        .tell(&EventChanged {
            event: described.clone(),
        })
        .await;
    eventually(SOON, async || stage.knows(&described).await).await;
    let late = Event {
        version: 2,
        venue: "Elsewhere".into(),
        ..event.clone()
    };
    stage.tell(&EventChanged { event: late }).await;
    let off = Event {
        version: 4,
        state: EventState::Cancelled,
        ..event
    };
    stage.tell(&EventChanged { event: off }).await;
    stage.mail_is(id, "event_cancelled", "sent").await;
    let kinds: Vec<_> = stage
        .rows(id)
        .await
        .into_iter()
        .map(|row| row.kind)
        .collect();
    assert_eq!(kinds, ["confirmed", "event_cancelled"]);
    stage.app.finish().await;
}

#[tokio::test]
async fn several_changes_are_told_once_with_what_is_different() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let id = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(id, "confirmed", "sent").await;
    stage
        .mail
        .faults()
        .sometimes(1.0, EMAIL.to_owned(), MailFault::TemporaryFailure);
    let mut changed = event;
    for (version, name, venue) in [
        (2, "Gala", "Town hall"),
        (3, "Gala night", "Town hall"),
        (4, "Gala night", "Castle"),
    ] {
        changed = Event {
            version,
            name: name.into(),
            venue: venue.into(),
            ..changed
        };
        let event = changed.clone();
        stage.tell(&EventChanged { event }).await;
        eventually(SOON, async || stage.occasions(id).await.contains(&version)).await;
    }
    stage.mail.faults().clear();
    stage.mail_is(id, "event_changed", "sent").await;
    let mails = stage.mails(id, "event_changed");
    assert_eq!(mails.len(), 1);
    let expected = "Gala night was changed. It was called Gala before. It takes place at Castle, \
                    Berlin instead of Opera, Berlin.";
    assert!(mails[0].text.contains(expected), "{}", mails[0].text);
    let left = "select count(*) from notifier.notifications where state = 'waiting'";
    assert_eq!(stage.number(left).await, 0);
    stage.app.finish().await;
}

#[tokio::test]
async fn a_change_taken_back_is_not_told() {
    let clock = ManualClock::at(SystemClock.now());
    let (mail, flags) = (mail::Config::default(), &["--news-delay-seconds=60"]);
    let stage = Stage::start_at(Arc::new(clock.clone()), mail, flags).await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let id = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(id, "confirmed", "sent").await;
    for (version, venue) in [(2, "Opera huose"), (3, "Opera")] {
        let event = Event {
            version,
            venue: venue.into(),
            ..event.clone()
        };
        stage
            .tell(&EventChanged {
                event: event.clone(),
            })
            .await;
        eventually(SOON, async || stage.knows(&event).await).await;
    }
    clock.advance(TimeDelta::seconds(61));
    let next = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(next, "confirmed", "sent").await;
    let announced = "select count(*) from notifier.announcements";
    assert_eq!(stage.number(announced).await, 0);
    assert_eq!(stage.rows(id).await.len(), 1);
    stage.app.finish().await;
}

#[tokio::test]
async fn a_cancelled_event_is_told_once_to_each_buyer() {
    let clock = ManualClock::at(SystemClock.now());
    let (mail, flags) = (mail::Config::default(), &["--news-delay-seconds=60"]);
    let stage = Stage::start_at(Arc::new(clock.clone()), mail, flags).await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, Some(PHONE)).await;
    let (told, ended_first) = (stage.pay(&event).await, stage.pay(&event).await);
    for paid in [&told, &ended_first] {
        let id = paid.booking.booking_id;
        stage.mail_is(id, "confirmed", "sent").await;
    }
    // This booking is cancelled before the event is.
    stage.cancel(&ended_first).await;
    let ended_first = ended_first.booking.booking_id;
    stage.mail_is(ended_first, "cancelled", "waiting").await;
    let off = Event {
        version: 2,
        state: EventState::Cancelled,
        ..event
    };
    stage.tell(&EventChanged { event: off }).await;
    let id = told.booking.booking_id;
    stage.mail_is(id, "event_cancelled", "sent").await;
    stage.cancel(&told).await;
    stage.mail_is(id, "cancelled", "waiting").await;
    clock.advance(TimeDelta::seconds(61));
    stage.mail_is(id, "cancelled", "skipped").await;
    stage.mail_is(ended_first, "cancelled", "sent").await;
    let is_settled = |state: &str| matches!(state, "sent" | "skipped");
    eventually(SOON, async || {
        let all = [stage.rows(id).await, stage.rows(ended_first).await].concat();
        all.iter().all(|row| is_settled(&row.state))
    })
    .await;

    let mails = stage.mails(ended_first, "cancelled");
    assert!(
        mails[0].text.contains("does not take place"),
        "{}",
        mails[0].text
    );
    assert!(stage.mails(id, "cancelled").is_empty());
    assert!(stage.mails(ended_first, "event_cancelled").is_empty());
    // Two confirmations, and one cancellation of each.
    assert_eq!(stage.sms.inbox().to(PHONE).len(), 4);
    stage.app.finish().await;
}

#[tokio::test]
async fn a_change_taken_back_while_the_server_is_away_is_not_told() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let id = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(id, "confirmed", "sent").await;
    stage
        .mail
        .faults()
        .sometimes(1.0, EMAIL.to_owned(), MailFault::TemporaryFailure);
    for (version, venue) in [(2, "Opera huose"), (3, "Opera")] {
        let event = Event {
            version,
            venue: venue.into(),
            ..event.clone()
        };
        stage.tell(&EventChanged { event }).await;
        eventually(SOON, async || stage.occasions(id).await.contains(&version)).await;
    }
    stage.mail.faults().clear();
    let skipped = "select count(*) from notifier.notifications
                   where kind = 'event_changed' and state = 'skipped'";
    eventually(SOON, async || stage.number(skipped).await == 2).await;
    assert_eq!(stage.mail.inbox().len(), 1);
    stage.app.finish().await;
}
