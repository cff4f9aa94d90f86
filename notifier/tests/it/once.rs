//! I6: each notice arrives once.

use domain::message::{BookingExpired, HoldPlaced, RefundFailed, RefundSucceeded};

use crate::stage::{Stage, event};

#[tokio::test]
async fn each_notice_delivered_twice_is_mailed_once() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;

    let [held, expired, paid, cancelled] = [(); 4].map(|()| stage.paid(&event, 1));
    stage
        .tell(&HoldPlaced {
            booking: held.booking.clone(),
        })
        .await;
    stage
        .tell(&BookingExpired {
            booking: expired.booking.clone(),
            reason: None,
        })
        .await;
    stage.tell(&paid).await;
    stage.cancel(&cancelled).await;
    stage
        .tell(&RefundSucceeded {
            booking_id: cancelled.booking.booking_id,
            event_id: event.id,
            account_id: cancelled.booking.account_id,
            amount: cancelled.booking.total,
            number: 0,
        })
        .await;
    // The bank sends it back later.
    stage
        .tell(&RefundFailed {
            booking_id: cancelled.booking.booking_id,
            event_id: event.id,
            account_id: cancelled.booking.account_id,
            amount: cancelled.booking.total,
            number: 0,
        })
        .await;

    let all = [
        (&held, "held"),
        (&expired, "expired"),
        (&paid, "confirmed"),
        (&cancelled, "cancelled"),
        (&cancelled, "refunded"),
        (&cancelled, "refund_failed"),
    ];
    for (booking, kind) in all {
        stage
            .mail_is(booking.booking.booking_id, kind, "sent")
            .await;
    }
    // A late duplicate; the booking after it shows that it was consumed.
    stage.tell(&paid).await;
    let last = stage.pay(&event).await;
    stage
        .mail_is(last.booking.booking_id, "confirmed", "sent")
        .await;
    for (booking, kind) in all {
        assert_eq!(
            stage.mails(booking.booking.booking_id, kind).len(),
            1,
            "{kind}"
        );
    }
    let returned = stage.mails(cancelled.booking.booking_id, "refund_failed");
    assert_eq!(returned[0].subject, "Your refund for Gala did not arrive");
    assert!(returned[0].text.contains("did not take the 45.00 EUR"));
    assert_eq!(stage.mail.inbox().len(), all.len() + 1);
    stage.app.finish().await;
}

#[tokio::test]
async fn nothing_is_asked_for_a_free_booking() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let mut paid = stage.paid(&event, 1);
    paid.booking.total.amount_minor = 0;
    stage
        .tell(&HoldPlaced {
            booking: paid.booking.clone(),
        })
        .await;
    stage.tell(&paid).await;
    stage
        .mail_is(paid.booking.booking_id, "confirmed", "sent")
        .await;
    assert_eq!(stage.rows(paid.booking.booking_id).await.len(), 1);
    stage.app.finish().await;
}

#[tokio::test]
async fn a_notice_waits_for_what_it_needs_to_know() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    let paid = stage.pay(&event).await;
    stage.introduce(&event, None).await;
    stage
        .mail_is(paid.booking.booking_id, "confirmed", "sent")
        .await;
    stage.app.finish().await;
}

#[tokio::test]
async fn tickets_of_a_cancelled_booking_are_not_sent_even_if_the_payment_is_heard_of_last() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let paid = stage.paid(&event, 1);
    stage.cancel(&paid).await;
    stage
        .mail_is(paid.booking.booking_id, "cancelled", "sent")
        .await;
    stage.tell(&paid).await;
    stage
        .mail_is(paid.booking.booking_id, "confirmed", "skipped")
        .await;
    assert!(stage.mails(paid.booking.booking_id, "confirmed").is_empty());
    stage.app.finish().await;
}
