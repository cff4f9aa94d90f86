//! What becomes of messages when servers or we fail.

use std::sync::Arc;

use chrono::TimeDelta;
use domain::clock::{Clock, ManualClock, SystemClock};
use platform::testing::eventually;
use surge::mail::MailFault;

use crate::stage::{EMAIL, SOON, Stage, event};

#[tokio::test]
async fn a_dead_mail_server_delays_and_loses_none() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    stage
        .mail
        .faults()
        .sometimes(1.0, None, MailFault::RefuseConnection);
    let mut bookings = Vec::new();
    for _ in 0..5 {
        bookings.push(stage.pay(&event).await.booking.booking_id);
    }
    for id in &bookings {
        eventually(SOON, async || {
            stage.rows(*id).await.iter().any(|row| row.tries > 2)
        })
        .await;
    }
    assert!(stage.mail.inbox().is_empty());
    stage.mail.faults().clear();
    for id in &bookings {
        stage.mail_is(*id, "confirmed", "sent").await;
    }
    assert_eq!(stage.mail.inbox().len(), bookings.len());
    stage.app.finish().await;
}

#[tokio::test]
async fn a_recipient_refused_for_now_is_tried_again() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    stage
        .mail
        .faults()
        .next(2, EMAIL.to_owned(), MailFault::TemporaryFailure);
    let id = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(id, "confirmed", "sent").await;
    let rows = stage.rows(id).await;
    assert_eq!((rows.len(), rows[0].tries), (1, 3));
    assert_eq!(stage.mails(id, "confirmed").len(), 1);
    stage.app.finish().await;
}

#[tokio::test]
async fn a_recipient_refused_for_good_fails_and_is_shown() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    stage
        .mail
        .faults()
        .next(1, EMAIL.to_owned(), MailFault::PermanentFailure);
    let refused = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(refused, "confirmed", "failed").await;
    let rows = stage.rows(refused).await;
    let error = rows[0].last_error.clone().unwrap();
    assert!(
        error.contains("550") && error.contains("No such mailbox"),
        "{error}"
    );
    assert_eq!(rows[0].tries, 1);

    let next = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(next, "confirmed", "sent").await;
    stage.app.finish().await;
}

/// The pipeline up to the answer breaks; what the server did with the mail is `kept`.
async fn an_answer_is_lost(fault: MailFault, kept: usize) {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    stage.mail.faults().next(1, EMAIL.to_owned(), fault);
    let id = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(id, "confirmed", "uncertain").await;
    // The sender goes on, and leaves this one alone.
    for _ in 0..3 {
        let next = stage.pay(&event).await.booking.booking_id;
        stage.mail_is(next, "confirmed", "sent").await;
    }
    let rows = stage.rows(id).await;
    assert_eq!((rows[0].state.as_str(), rows[0].tries), ("uncertain", 1));
    assert_eq!(stage.mails(id, "confirmed").len(), kept);
    stage.app.finish().await;
}

#[tokio::test]
async fn a_mail_taken_without_an_answer_is_uncertain_and_never_sent_again() {
    an_answer_is_lost(MailFault::AcceptThenCut, 1).await;
}

#[tokio::test]
async fn a_mail_lost_without_an_answer_is_uncertain_and_never_sent_again() {
    an_answer_is_lost(MailFault::CutBeforeAccept, 0).await;
}

#[tokio::test]
async fn a_mail_whose_sender_died_is_uncertain_and_never_sent_again() {
    let clock = ManualClock::at(SystemClock.now());
    let stage = Stage::start_with(Arc::new(clock.clone())).await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let an_hour = MailFault::Delay {
        milliseconds: 3_600_000,
    };
    stage.mail.faults().next(1, EMAIL.to_owned(), an_hour);
    let id = stage.pay(&event).await.booking.booking_id;
    stage.mail.inbox().wait_for(1, SOON).await.unwrap();
    stage.app.ctx.shutdown.soft().cancel();
    stage.app.ctx.shutdown.hard().cancel();

    let node = stage.app.another_node().await;
    stage.start_notifier(node.clone()).await;
    let next = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(next, "confirmed", "sent").await;
    assert_eq!(
        stage.rows(id).await[0].state,
        "sending",
        "the lease still runs"
    );
    clock.advance(TimeDelta::hours(1));
    stage.mail_is(id, "confirmed", "uncertain").await;

    let last = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(last, "confirmed", "sent").await;
    assert_eq!(stage.rows(id).await[0].tries, 1);
    assert_eq!(stage.mails(id, "confirmed").len(), 1);
    node.shutdown.soft().cancel();
    node.shutdown.tasks_left().await;
    stage.app.finish().await;
}
