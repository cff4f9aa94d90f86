//! Transferred tickets: notices to both parties, and event news to the current holder.

use std::sync::Arc;

use chrono::TimeDelta;
use domain::AccountId;
use domain::booking::TicketFacts;
use domain::clock::{Clock, ManualClock, SystemClock};
use domain::event::{Event, EventState};
use domain::message::{AccountChanged, BookingPaid, EventChanged, TicketTransferred};
use platform::testing::eventually;
use stand_ins::mail::MailFault;

use crate::stage::{ACCOUNT, EMAIL, SOON, Stage, event};

const FRIEND: AccountId = AccountId(77);
const FRIENDS_EMAIL: &str = "friend@example.org";

/// The `number`th transfer of the booking's `nth` ticket, to `to`.
fn transferred(paid: &BookingPaid, nth: usize, to: AccountId, number: i64) -> TicketTransferred {
    TicketTransferred {
        booking: paid.booking.clone(),
        ticket: TicketFacts {
            code: format!("T1.the.new.code{number}"),
            seat: paid.tickets[nth].seat.clone(),
        },
        from: if to == ACCOUNT { FRIEND } else { ACCOUNT },
        to,
        number,
    }
}

impl Stage {
    /// Publishes the event and both accounts.
    async fn introduce_friends(&self, event: &Event) {
        self.introduce(event, None).await;
        self.tell(&AccountChanged {
            account_id: FRIEND,
            version: 1,
            email: FRIENDS_EMAIL.to_owned(),
            name: "Friend".to_owned(),
            phone: None,
        })
        .await;
    }

    /// Waits for `count` mails of a kind about a booking, and returns pairs of recipient and seats.
    async fn told(&self, paid: &BookingPaid, kind: &str, count: usize) -> Vec<(String, String)> {
        let id = paid.booking.booking_id;
        eventually(SOON, async || self.mails(id, kind).len() >= count).await;
        let seats = |text: &str| {
            let line = text.lines().find(|line| line.starts_with("Seat"));
            line.unwrap_or_default().to_owned()
        };
        let mails = self.mails(id, kind);
        let told = mails
            .iter()
            .map(|mail| (mail.to.join(", "), seats(&mail.text)));
        let mut told: Vec<_> = told.collect();
        told.sort();
        told
    }

    async fn change(&self, event: Event) {
        self.tell(&EventChanged { event }).await;
    }
}

#[tokio::test]
async fn both_are_told_once_and_the_new_holder_also_of_the_end() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce_friends(&event).await;
    let paid = stage.paid(&event, 2);
    let id = paid.booking.booking_id;
    // Out of order: the transfer waits for the payment.
    stage.tell(&transferred(&paid, 0, FRIEND, 1)).await;
    stage.tell(&paid).await;
    for kind in ["transferred", "received"] {
        stage.mail_is(id, kind, "sent").await;
    }
    let (to_old, to_new) = (stage.mails(id, "transferred"), stage.mails(id, "received"));
    assert_eq!((to_old.len(), to_new.len()), (1, 1));
    assert!(!to_old[0].text.contains("T1.the.new.code1"));
    assert_eq!(to_old[0].to, [EMAIL]);
    assert_eq!(to_new[0].to, [FRIENDS_EMAIL]);
    assert!(to_new[0].text.contains("T1.the.new.code1"));

    stage.cancel(&paid).await;
    stage.mail_is(id, "withdrawn", "sent").await;
    let told = stage.mails(id, "withdrawn");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].to, [FRIENDS_EMAIL]);
    stage.app.finish().await;
}

#[tokio::test]
async fn who_holds_a_ticket_hears_of_its_event() {
    let clock = ManualClock::at(SystemClock.now());
    let stage = Stage::start_with(Arc::new(clock.clone())).await;
    let event = Event {
        date: clock.now() + TimeDelta::days(10),
        reminder_before_seconds: Some(86_400),
        ..event(&stage.app.ctx.clock)
    };
    stage.introduce_friends(&event).await;
    // One of three tickets is transferred; the only ticket; and one that is returned.
    let (some, only, back) = (
        stage.paid(&event, 3),
        stage.paid(&event, 1),
        stage.paid(&event, 2),
    );
    for paid in [&some, &only, &back] {
        stage.tell(paid).await;
        stage.tell(&transferred(paid, 0, FRIEND, 1)).await;
    }
    stage.tell(&transferred(&back, 0, ACCOUNT, 2)).await;
    for paid in [&some, &only] {
        let id = paid.booking.booking_id;
        stage.mail_is(id, "received", "sent").await;
    }
    eventually(SOON, async || {
        let received = stage.mails(back.booking.booking_id, "received");
        received.iter().any(|mail| mail.to == [EMAIL])
    })
    .await;

    let first = "Seat: Stalls, row C, seat 1";
    let to_friend = (FRIENDS_EMAIL.to_owned(), first.to_owned());
    let to_buyer = |seats: &str| (EMAIL.to_owned(), format!("Seats: Stalls, row C, {seats}"));
    let some_of = [to_buyer("seat 2; Stalls, row C, seat 3"), to_friend.clone()];
    let all_back = [to_buyer("seat 1; Stalls, row C, seat 2")];

    let moved = Event {
        version: 2,
        date: event.date + TimeDelta::days(1),
        ..event
    };
    stage.change(moved.clone()).await;
    assert_eq!(stage.told(&some, "event_changed", 2).await, some_of);
    let told = stage.told(&only, "event_changed", 1).await;
    assert_eq!(told, std::slice::from_ref(&to_friend));
    assert_eq!(stage.told(&back, "event_changed", 1).await, all_back);

    clock.advance(TimeDelta::days(10) + TimeDelta::seconds(1));
    assert_eq!(stage.told(&some, "reminder", 2).await, some_of);
    let told = stage.told(&only, "reminder", 1).await;
    assert_eq!(told, std::slice::from_ref(&to_friend));
    assert_eq!(stage.told(&back, "reminder", 1).await, all_back);

    // A buyer without tickets is notified of a cancelled event, too.
    stage
        .change(Event {
            version: 3,
            state: EventState::Cancelled,
            ..moved
        })
        .await;
    let told = stage.told(&only, "event_cancelled", 2).await;
    assert_eq!(told, [(EMAIL.to_owned(), first.to_owned()), to_friend]);
    let to_friend = stage.mails(only.booking.booking_id, "event_cancelled");
    let to_friend = to_friend.iter().find(|mail| mail.to == [FRIENDS_EMAIL]);
    let text = &to_friend.unwrap().text;
    assert!(text.contains("goes back to who bought them"), "{text}");
    assert!(!text.contains("/bookings/"), "not the reader's: {text}");
    stage.app.finish().await;
}

#[tokio::test]
async fn what_waits_for_a_holder_who_gives_the_ticket_away_is_dropped() {
    let clock = ManualClock::at(SystemClock.now());
    let stage = Stage::start_with(Arc::new(clock.clone())).await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce_friends(&event).await;
    let paid = stage.paid(&event, 1);
    let id = paid.booking.booking_id;
    stage.tell(&paid).await;
    stage.mail_is(id, "confirmed", "sent").await;
    stage
        .mail
        .faults()
        .sometimes(1.0, EMAIL.to_owned(), MailFault::TemporaryFailure);
    let moved = Event {
        version: 2,
        date: event.date + TimeDelta::days(1),
        ..event
    };
    stage.change(moved).await;
    // By the stage's clock there is no other try before the ticket is away.
    stage.mail_is_put_off(id, "event_changed").await;
    stage.tell(&transferred(&paid, 0, FRIEND, 1)).await;
    stage.mail_is(id, "received", "sent").await;
    stage.mail_is_put_off(id, "transferred").await;
    stage.mail.faults().clear();
    clock.advance(TimeDelta::minutes(2));
    stage.mail_is(id, "event_changed", "skipped").await;
    stage.mail_is(id, "transferred", "sent").await;
    assert!(stage.mails(id, "event_changed").is_empty());
    stage.app.finish().await;
}
