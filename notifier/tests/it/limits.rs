//! The limit on mails that cost nothing to cause.

use std::sync::Arc;

use chrono::TimeDelta;
use domain::BookingId;
use domain::clock::{Clock as _, ManualClock, SystemClock};
use domain::event::Event;
use domain::message::HoldPlaced;
use platform::testing::eventually;

use crate::stage::{Row, SOON, Stage, event};

impl Stage {
    /// Holds seats, which costs nothing.
    async fn hold(&self, event: &Event) -> BookingId {
        let booking = self.paid(event, 1).booking;
        let id = booking.booking_id;
        self.tell(&HoldPlaced { booking }).await;
        id
    }

    /// Waits until the mail about a booking is settled.
    async fn settled(&self, id: BookingId) -> Row {
        let is_settled = |row: &Row| ["sent", "skipped"].contains(&&*row.state);
        eventually(SOON, async || self.rows(id).await.iter().any(is_settled)).await;
        self.rows(id).await.remove(0)
    }
}

async fn stage() -> (Stage, ManualClock, Event) {
    let clock = ManualClock::at(SystemClock.now());
    let stage = Stage::start_with(Arc::new(clock.clone())).await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    (stage, clock, event)
}

fn assert_skipped(row: &Row) {
    let reason = row.last_error.as_deref().unwrap_or_default();
    assert!(
        row.state == "skipped" && reason.contains("too many"),
        "{row:?}"
    );
}

#[tokio::test]
async fn an_account_is_sent_twenty_mails_an_hour_that_cost_nothing_to_cause() {
    let (stage, clock, event) = stage().await;
    for _ in 0..20 {
        let id = stage.hold(&event).await;
        assert_eq!(stage.settled(id).await.state, "sent");
    }
    let one_more = stage.hold(&event).await;
    assert_skipped(&stage.settled(one_more).await);
    // Tickets that were paid for are not counted out.
    let paid = stage.pay(&event).await.booking.booking_id;
    assert_eq!(stage.settled(paid).await.state, "sent");
    assert_eq!(stage.mail.inbox().len(), 21);

    clock.advance(TimeDelta::hours(1) + TimeDelta::seconds(1));
    let later = stage.hold(&event).await;
    assert_eq!(stage.settled(later).await.state, "sent");
    stage.app.finish().await;
}
