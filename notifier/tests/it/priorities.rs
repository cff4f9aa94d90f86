//! Priority classes, rates, and the delay of mails that a payment supersedes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::TimeDelta;
use domain::clock::{Clock, ManualClock, SystemClock};
use domain::event::Event;
use domain::message::{EventChanged, HoldPlaced};
use platform::testing::eventually;
use stand_ins::mail;

use crate::stage::{SOON, Stage, event};

const READERS: i32 = 5_000;

#[tokio::test]
async fn tickets_never_wait_behind_news_for_thousands() {
    let far_away = mail::Config {
        round_trip: Duration::from_millis(100),
        ..mail::Config::default()
    };
    let stage = Stage::start_at(SystemClock::shared(), far_away, &[]).await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    stage.know_bookings(&event, READERS).await;
    let moved = Event {
        version: 2,
        venue: "Town hall".into(),
        ..event.clone()
    };
    stage.tell(&EventChanged { event: moved }).await;
    let written = "select count(*) from notifier.notifications where kind = 'event_changed'";
    eventually(SOON, async || {
        stage.number(written).await == i64::from(READERS)
    })
    .await;
    eventually(SOON, async || !stage.mail.inbox().is_empty()).await;

    let id = stage.pay(&event).await.booking.booking_id;
    // All the news take two minutes.
    eventually(SOON, async || stage.mails(id, "confirmed").len() == 1).await;
    let left = "select count(*) from notifier.notifications
                where kind = 'event_changed' and state = 'waiting'";
    assert!(stage.number(left).await > 0, "the backlog was there");
    stage.app.finish().await;
}

#[tokio::test]
async fn a_backlog_leaves_at_twenty_mails_a_second_and_more_over_a_slow_network() {
    let far_away = mail::Config {
        round_trip: Duration::from_millis(50),
        ..mail::Config::default()
    };
    let stage = Stage::start_at(SystemClock::shared(), far_away, &[]).await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    stage.know_bookings(&event, 400).await;
    let moved = Event {
        version: 2,
        venue: "Town hall".into(),
        ..event.clone()
    };
    stage.tell(&EventChanged { event: moved }).await;
    let mut arrived = Vec::new();
    eventually(4 * SOON, async || {
        let count = stage.mail.inbox().len();
        arrived.push((Instant::now(), count));
        count == 400
    })
    .await;
    // Two round trips a mail on each of ten connections: 80 a second, with room for a busy machine.
    // One connection alone carries ten a second.
    let takes = |count: usize| {
        let since = |(begun, before): &(Instant, usize)| {
            let enough = arrived.iter().find(|(_, after)| *after >= before + count);
            enough.map(|(at, _)| *at - *begun)
        };
        let all = arrived
            .iter()
            .take_while(|(_, before)| before + count <= 400);
        all.filter_map(since).min()
    };
    let took = takes(100).unwrap();
    assert!(took < Duration::from_secs(5), "a hundred in {took:?}");
    stage.app.finish().await;
}

#[tokio::test]
async fn mails_go_no_faster_than_the_operator_allows() {
    let slowly = &["--mails-per-second=5"];
    let stage = Stage::start_at(SystemClock::shared(), mail::Config::default(), slowly).await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let started = Instant::now();
    for _ in 0..15 {
        stage.pay(&event).await;
    }
    stage.mail.inbox().wait_for(15, SOON).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(1_800));
    stage.app.finish().await;
}

#[tokio::test]
async fn a_buyer_who_pays_at_once_gets_only_the_tickets() {
    let clock = ManualClock::at(SystemClock.now());
    let (mail, flags) = (mail::Config::default(), &["--held-mail-delay-seconds=60"]);
    let stage = Stage::start_at(Arc::new(clock.clone()), mail, flags).await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let (paid, unpaid) = (stage.paid(&event, 1), stage.paid(&event, 1));
    for booking in [&paid.booking, &unpaid.booking] {
        let booking = booking.clone();
        stage.tell(&HoldPlaced { booking }).await;
    }
    stage.tell(&paid).await;
    let (paid, unpaid) = (paid.booking.booking_id, unpaid.booking.booking_id);
    stage.mail_is(paid, "confirmed", "sent").await;
    stage.mail_is(unpaid, "held", "waiting").await;
    clock.advance(TimeDelta::seconds(61));
    stage.mail_is(unpaid, "held", "sent").await;
    stage.mail_is(paid, "held", "skipped").await;
    assert!(stage.mails(paid, "held").is_empty());
    stage.app.finish().await;
}
