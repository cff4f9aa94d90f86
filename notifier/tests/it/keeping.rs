//! Retention, and recovery from lost messages.

use std::sync::Arc;

use chrono::TimeDelta;
use domain::clock::{Clock, ManualClock, SystemClock};
use domain::event::Event;
use domain::message::{BookingExpired, EventChanged};
use platform::testing::eventually;

use crate::stage::{ACCOUNT, EMAIL, SOON, Stage, event};

#[tokio::test]
async fn an_account_whose_message_was_lost_gets_its_tickets() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage
        .tell(&EventChanged {
            event: event.clone(),
        })
        .await;
    sqlx::query(
        "insert into box_office.accounts (id, email, password_hash, name, email_confirmed_at, created_at, updated_at)
         overriding system value values ($1, $2, '', 'Ada', now(), now(), now())",
    )
    .bind(ACCOUNT.0)
    .bind(EMAIL)
    .execute(&stage.app.ctx.db)
    .await
    .unwrap();
    let id = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(id, "confirmed", "sent").await;
    assert_eq!(stage.mails(id, "confirmed")[0].to, [EMAIL]);
    stage.app.finish().await;
}

#[tokio::test]
async fn what_was_said_of_events_long_over_is_removed_and_the_rest_is_kept() {
    let clock = ManualClock::at(SystemClock.now());
    let stage = Stage::start_with(Arc::new(clock.clone())).await;
    let over = event(&stage.app.ctx.clock);
    stage.introduce(&over, None).await;
    let old = stage.pay(&over).await.booking.booking_id;
    stage.mail_is(old, "confirmed", "sent").await;
    let unpaid = stage.paid(&over, 1).booking;
    let old_unpaid = unpaid.booking_id;
    stage
        .tell(&BookingExpired {
            booking: unpaid,
            reason: None,
        })
        .await;
    stage.mail_is(old_unpaid, "expired", "sent").await;

    clock.advance(TimeDelta::days(180));
    let soon_over = Event {
        id: domain::EventId(2),
        date: clock.now() - TimeDelta::days(1),
        ..over
    };
    stage.introduce(&soon_over, None).await;
    let kept = stage.pay(&soon_over).await.booking.booking_id;
    stage.mail_is(kept, "confirmed", "sent").await;
    clock.advance(TimeDelta::days(31));
    // The retention sweep runs at start-up.
    let node = stage.app.another_node().await;
    let _routes = stage.start_notifier(node.clone()).await;
    for id in [old, old_unpaid] {
        eventually(SOON, async || stage.rows(id).await.is_empty()).await;
    }
    let bookings = "select count(*) from notifier.bookings";
    eventually(SOON, async || stage.number(bookings).await == 1).await;
    assert_eq!(stage.rows(kept).await.len(), 1);
    node.shutdown.soft().cancel();
    node.shutdown.tasks_left().await;
    stage.app.finish().await;
}
