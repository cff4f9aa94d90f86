//! Failures of the mail server, and crashes of the sender.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use domain::clock::{Clock, ManualClock, SystemClock};
use domain::event::Event;
use domain::message::EventChanged;
use platform::testing::eventually;
use stand_ins::mail::{self, MailFault};

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
    let tries = "select coalesce(sum(tries), 0)::bigint from notifier.notifications";
    eventually(SOON, async || stage.number(tries).await >= 5).await;
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

#[tokio::test]
async fn an_outage_costs_a_probe_now_and_then_and_not_a_try_for_each_mail() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    stage
        .mail
        .faults()
        .sometimes(1.0, None, MailFault::RefuseConnection);
    stage.know_bookings(&event, 500).await;
    let moved = Event {
        version: 2,
        venue: "Town hall".into(),
        ..event
    };
    stage.tell(&EventChanged { event: moved }).await;
    let tries = "select coalesce(sum(tries), 0)::bigint from notifier.notifications";
    eventually(SOON, async || stage.number(tries).await >= 5).await;
    // Time for two probes.
    let since = Instant::now();
    eventually(SOON, async || since.elapsed() > Duration::from_secs(11)).await;
    let tries = stage.number(tries).await;
    assert!(tries < 40, "{tries} tries");
    let unsettled = "select count(*) from notifier.notifications where state <> 'waiting'";
    assert_eq!(stage.number(unsettled).await, 0);
    stage.mail.faults().clear();
    // Some twenty a second, and more slowly where the machine is busy.
    let limit = 4 * SOON;
    stage.mail.inbox().wait_for(500, limit).await.unwrap();
    stage.app.finish().await;
}

#[tokio::test]
async fn a_refusal_that_is_not_about_the_recipient_delays_a_mail() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    for line in [
        "550 5.4.5 Daily user sending quota exceeded",
        "552 5.2.2 Mailbox full",
        "550 5.7.1 Rate limit",
        "554 Transaction failed",
    ] {
        let line = line.to_owned();
        let at_recipient = MailFault::AnswerRecipient { line: line.clone() };
        stage.mail.faults().next(1, EMAIL.to_owned(), at_recipient);
        let after_data = MailFault::AnswerMessage { line: line.clone() };
        stage.mail.faults().next(1, EMAIL.to_owned(), after_data);
        let id = stage.pay(&event).await.booking.booking_id;
        stage.mail_is(id, "confirmed", "sent").await;
        assert_eq!(stage.rows(id).await[0].tries, 3, "{line}");
        assert_eq!(stage.mails(id, "confirmed").len(), 1);
    }
    stage.app.finish().await;
}

#[tokio::test]
async fn a_server_that_wants_a_full_name_hears_one() {
    let strict = mail::Config {
        wants_full_names: true,
        ..mail::Config::default()
    };
    let stage = Stage::start_at(SystemClock::shared(), strict, &[]).await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let id = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(id, "confirmed", "sent").await;
    assert_eq!(stage.rows(id).await[0].tries, 1);
    stage.app.finish().await;
}

#[tokio::test]
async fn a_mail_whose_sender_died_before_the_data_arrives_once() {
    let clock = ManualClock::at(SystemClock.now());
    let stage = Stage::start_with(Arc::new(clock.clone())).await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let a_while = MailFault::DelayRecipient {
        milliseconds: 600_000,
    };
    stage.mail.faults().next(1, EMAIL.to_owned(), a_while);
    let id = stage.pay(&event).await.booking.booking_id;
    let is_claimed = |rows: Vec<crate::stage::Row>| rows.iter().any(|row| row.tries == 1);
    eventually(SOON, async || is_claimed(stage.rows(id).await)).await;
    stage.app.ctx.shutdown.soft().cancel();
    stage.app.ctx.shutdown.hard().cancel();

    let node = stage.app.another_node().await;
    let _routes = stage.start_notifier(node.clone()).await;
    let next = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(next, "confirmed", "sent").await;
    assert_eq!(stage.rows(id).await[0].tries, 1, "the lease still runs");
    clock.advance(TimeDelta::minutes(2));
    stage.mail_is(id, "confirmed", "sent").await;
    assert_eq!(stage.mails(id, "confirmed").len(), 1);
    node.shutdown.soft().cancel();
    node.shutdown.tasks_left().await;
    stage.app.finish().await;
}

#[tokio::test]
async fn a_shutdown_hands_nothing_more_over_and_leaves_it_to_the_next() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let until_cleared = MailFault::DelayRecipient {
        milliseconds: 600_000,
    };
    let faults = stage.mail.faults();
    faults.next(1, EMAIL.to_owned(), until_cleared);
    let id = stage.pay(&event).await.booking.booking_id;
    // The recipient was announced.
    eventually(SOON, async || faults.rules().is_empty()).await;
    stage.app.ctx.shutdown.soft().cancel();
    faults.clear();
    stage.app.ctx.shutdown.tasks_left().await;
    let row = &stage.rows(id).await[0];
    assert_eq!((row.state.as_str(), row.tries), ("waiting", 1));
    assert!(stage.mail.inbox().is_empty());

    let node = stage.app.another_node().await;
    let _routes = stage.start_notifier(node.clone()).await;
    stage.mail_is(id, "confirmed", "sent").await;
    assert_eq!(stage.mail.inbox().len(), 1);
    node.shutdown.soft().cancel();
    node.shutdown.tasks_left().await;
    stage.app.finish().await;
}

/// Breaks the connection around the answer to the data; the server has `kept` mails of it.
async fn an_answer_is_lost(fault: MailFault, kept: usize) {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    stage.mail.faults().next(1, EMAIL.to_owned(), fault);
    let id = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(id, "confirmed", "uncertain").await;
    // The sender goes on, and does not retry this one.
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
async fn a_mail_whose_sender_died_after_the_data_is_uncertain_and_never_sent_again() {
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
    let _routes = stage.start_notifier(node.clone()).await;
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
