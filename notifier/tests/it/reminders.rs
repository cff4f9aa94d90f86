//! Reminders: their time, and their relevance when sent.

use std::sync::Arc;

use chrono::TimeDelta;
use domain::clock::{Clock, ManualClock, SystemClock};
use domain::event::{Event, EventState};
use domain::message::EventChanged;
use domain::{BookingId, EventId};
use platform::testing::eventually;
use stand_ins::mail::MailFault;

use crate::stage::{EMAIL, SOON, Stage, event};

const DAY: TimeDelta = TimeDelta::days(1);

/// A stage with a manual clock, and a factory of events in ten days, reminded of a day before.
async fn stage() -> (Stage, ManualClock, impl Fn(i64) -> Event) {
    let clock = ManualClock::at(SystemClock.now());
    let stage = Stage::start_with(Arc::new(clock.clone())).await;
    let event = event(&stage.app.ctx.clock);
    let date = clock.now() + DAY * 10;
    let numbered = move |id| Event {
        id: EventId(id),
        date,
        reminder_before_seconds: Some(86_400),
        ..event.clone()
    };
    (stage, clock, numbered)
}

async fn paid(stage: &Stage, event: &Event) -> BookingId {
    stage.introduce(event, None).await;
    let id = stage.pay(event).await.booking.booking_id;
    stage.mail_is(id, "confirmed", "sent").await;
    id
}

async fn has_reminder(stage: &Stage, id: BookingId) -> bool {
    stage
        .rows(id)
        .await
        .iter()
        .any(|row| row.kind == "reminder")
}

#[tokio::test]
async fn a_reminder_comes_at_its_time_but_not_for_a_cancelled_or_moved_event() {
    let (stage, clock, event) = stage().await;
    let (takes_place, is_off, moves) = (event(1), event(2), event(3));
    let [reminded, off, moved] = [
        paid(&stage, &takes_place).await,
        paid(&stage, &is_off).await,
        paid(&stage, &moves).await,
    ];
    let given_up = stage.pay(&takes_place).await;
    stage.cancel(&given_up).await;
    stage
        .mail_is(given_up.booking.booking_id, "cancelled", "sent")
        .await;
    let is_off = Event {
        version: 2,
        state: EventState::Cancelled,
        ..is_off
    };
    let later = Event {
        version: 2,
        date: moves.date + DAY * 5,
        ..moves
    };
    stage.tell(&EventChanged { event: is_off }).await;
    stage.tell(&EventChanged { event: later }).await;
    stage.mail_is(off, "event_cancelled", "sent").await;
    stage.mail_is(moved, "event_changed", "sent").await;
    assert!(!has_reminder(&stage, reminded).await, "too early");

    clock.advance(DAY * 9 + TimeDelta::seconds(1));
    stage.mail_is(reminded, "reminder", "sent").await;
    for id in [off, moved, given_up.booking.booking_id] {
        assert!(!has_reminder(&stage, id).await);
    }
    // A change that keeps the date does not repeat the reminder.
    let described = Event {
        version: 2,
        description: "New".into(),
        ..takes_place
    };
    stage
        .tell(&EventChanged {
            event: described.clone(),
        })
        .await;
    eventually(SOON, async || stage.knows(&described).await).await;

    clock.advance(DAY * 5);
    stage.mail_is(moved, "reminder", "sent").await;
    assert_eq!(stage.mails(moved, "reminder").len(), 1);
    assert_eq!(stage.mails(reminded, "reminder").len(), 1);
    stage.app.finish().await;
}

#[tokio::test]
async fn a_reminder_that_waits_for_the_mail_server_is_dropped_when_the_event_moves() {
    let (stage, clock, event) = stage().await;
    let event = event(1);
    let id = paid(&stage, &event).await;
    stage
        .mail
        .faults()
        .sometimes(1.0, EMAIL.to_owned(), MailFault::TemporaryFailure);
    clock.advance(DAY * 9 + TimeDelta::seconds(1));
    // By the stage's clock there is no other try before the event moves.
    stage.mail_is_put_off(id, "reminder").await;
    let moved = Event {
        version: 2,
        date: event.date + DAY,
        ..event
    };
    stage
        .tell(&EventChanged {
            event: moved.clone(),
        })
        .await;
    eventually(SOON, async || stage.knows(&moved).await).await;
    stage.mail.faults().clear();
    clock.advance(TimeDelta::minutes(2));
    stage.mail_is(id, "reminder", "skipped").await;
    stage.mail_is(id, "event_changed", "sent").await;
    assert!(stage.mails(id, "reminder").is_empty());
    stage.app.finish().await;
}

#[tokio::test]
async fn reminders_of_one_event_that_cannot_be_written_stop_no_other() {
    let (stage, clock, event) = stage().await;
    let (broken, sound) = (event(1), event(2));
    let unreminded = paid(&stage, &broken).await;
    let reminded = paid(&stage, &sound).await;
    sqlx::query("update notifier.bookings set facts = jsonb_set(facts, '{tickets,0,seat,id}', '\"?\"') where booking_id = $1")
        .bind(unreminded.0)
        .execute(&stage.app.ctx.db)
        .await
        .unwrap();
    clock.advance(DAY * 9 + TimeDelta::seconds(1));
    stage.mail_is(reminded, "reminder", "sent").await;
    let put_off = "select count(*) from notifier.announcements where event_id = 1 and tries > 0";
    eventually(SOON, async || stage.number(put_off).await == 1).await;
    assert!(!has_reminder(&stage, unreminded).await);
    stage.app.finish().await;
}

/// Refuses statements that write more than 1,000 notifications, as a limit on their time would.
async fn refuse_large_statements(stage: &Stage) {
    sqlx::raw_sql(
        "create function refuse_large() returns trigger language plpgsql as $$
         begin
             if (select count(*) from written) > 1000 then
                 raise exception 'the statement is too large';
             end if;
             return null;
         end $$;
         create trigger refuse_large after insert on notifier.notifications
         referencing new table as written for each statement execute function refuse_large();",
    )
    .execute(&stage.app.ctx.db)
    .await
    .unwrap();
}

#[tokio::test]
async fn reminders_of_a_large_event_are_written_in_small_statements() {
    let (stage, clock, event) = stage().await;
    let event = event(1);
    stage.introduce(&event, None).await;
    stage
        .mail
        .faults()
        .sometimes(1.0, None, MailFault::RefuseConnection);
    stage.know_bookings(&event, 5_000).await;
    refuse_large_statements(&stage).await;
    clock.advance(DAY * 9 + TimeDelta::seconds(1));
    let reminded = "select count(distinct booking_id) from notifier.notifications
                    where kind = 'reminder'";
    eventually(SOON, async || stage.number(reminded).await == 5_000).await;
    let left = "select count(*) from notifier.announcements";
    eventually(SOON, async || stage.number(left).await == 0).await;
    let reminders = "select count(*) from notifier.notifications";
    assert_eq!(stage.number(reminders).await, 5_000);
    stage.app.finish().await;
}

#[tokio::test]
async fn an_event_moved_within_the_time_of_its_reminder_is_told_once() {
    let (stage, clock, stage_event) = stage().await;
    let event = stage_event(1);
    let id = paid(&stage, &event).await;
    clock.advance(DAY * 9 + TimeDelta::seconds(1));
    stage.mail_is(id, "reminder", "sent").await;
    let later = Event {
        version: 2,
        date: event.date + TimeDelta::minutes(15),
        ..event
    };
    stage.tell(&EventChanged { event: later }).await;
    stage.mail_is(id, "event_changed", "sent").await;
    clock.advance(TimeDelta::minutes(16));
    // Another event's reminder shows that due reminders were announced since.
    let other = Event {
        date: clock.now() + DAY + TimeDelta::minutes(1),
        ..stage_event(2)
    };
    let told = paid(&stage, &other).await;
    clock.advance(TimeDelta::minutes(2));
    stage.mail_is(told, "reminder", "sent").await;
    assert_eq!(stage.mails(id, "reminder").len(), 1);
    let reminders = "select count(*) from notifier.notifications where kind = 'reminder'";
    assert_eq!(stage.number(reminders).await, 2);
    stage.app.finish().await;
}
