//! News of events to those who have tickets.

use chrono::TimeDelta;
use domain::event::{Event, EventState};
use domain::message::EventChanged;
use platform::testing::eventually;

use crate::stage::{SOON, Stage, event};

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
