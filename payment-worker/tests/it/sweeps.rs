//! Each message between the services is lost for good, and its sweep makes up for it.

use chrono::TimeDelta;
use domain::message::{
    BookingCancelled, BookingConfirmed, BookingExpired, BookingPaid, HoldPlaced, Message,
    PaymentAuthorised, PaymentCaptured, RefundSucceeded,
};
use platform::testing::eventually;
use platform::topology;
use serde_json::Value;
use stand_ins::stripe::{ApiFault, Operation};

use crate::pipeline::{PATIENCE, PRICE, Pipeline};

const PAID: &str = "select count(*) from booking.bookings where captured_at is not null";

fn names(messages: &[(String, Value)]) -> Vec<&str> {
    messages.iter().map(|(name, _)| name.as_str()).collect()
}

impl Pipeline {
    /// Waits until the outbox is empty; no hold ends meanwhile.
    async fn wait_until_published(&self) {
        let waiting = "select count(*) from platform.outbox";
        eventually(PATIENCE, async || {
            let is_empty = self.count(waiting).await == 0;
            if !is_empty {
                self.let_outbox_leases_pass().await;
            }
            is_empty
        })
        .await;
    }
}

#[tokio::test]
async fn a_confirmation_that_is_lost_is_captured_all_the_same() {
    let pipeline = Pipeline::open(1).await;
    let id = pipeline.hold(1).await;
    pipeline.crash_bookings().await;
    assert!(pipeline.pay(id, "pm_card_visa").await);
    pipeline.wait_for_payment(id, "authorised").await;
    pipeline.wait_until_published().await;
    pipeline.crash_payments().await;
    pipeline.start_bookings(None).await;
    pipeline.wait_for_booking(id, "confirmed").await;
    let lost = pipeline.discard(&topology::payment_bookings()).await;
    assert_eq!(lost, BookingConfirmed::NAME);

    pipeline.start_payments(None).await;
    pipeline
        .in_time(async || pipeline.payment(id).await == "captured")
        .await;
    pipeline
        .in_time(async || pipeline.count(PAID).await == 1)
        .await;
    pipeline.close().await;
}

#[tokio::test]
async fn a_cancellation_that_is_lost_is_refunded_by_the_policy_of_its_day() {
    let pipeline = Pipeline::open(1).await;
    let policy = |fee: i32| {
        sqlx::query(
            "insert into payment.refund_policies (event_id, fee_percent, updated_at, updated_by)
             values (1, $1, $2, 1)
             on conflict (event_id) do update
             set fee_percent = excluded.fee_percent, updated_at = excluded.updated_at",
        )
        .bind(fee)
        .bind(domain::clock::Clock::now(&pipeline.clock))
    };
    policy(10).execute(&pipeline.app.ctx.db).await.unwrap();
    let id = pipeline.sell(1).await;
    pipeline
        .in_time(async || pipeline.count(PAID).await == 1)
        .await;
    pipeline.crash_payments().await;
    pipeline.cancel(id, 1).await;
    pipeline.wait_for_booking(id, "cancelled").await;
    let lost = pipeline.discard(&topology::payment_bookings()).await;
    assert_eq!(lost, BookingCancelled::NAME);
    // A later policy applies to later cancellations.
    policy(100).execute(&pipeline.app.ctx.db).await.unwrap();

    pipeline.start_payments(None).await;
    let refunds = || pipeline.stripe.ledger().refunds();
    pipeline.in_time(async || refunds().len() == 1).await;
    assert_eq!(refunds()[0].amount, PRICE - PRICE / 10);
    pipeline.close().await;
}

#[tokio::test]
async fn a_capture_whose_news_is_lost_becomes_a_paid_booking() {
    let pipeline = Pipeline::open(1).await;
    // No capture succeeds until the booking worker is gone, so that it can't consume the message.
    let faults = pipeline.stripe.faults();
    let capture = Operation::CapturePaymentIntent;
    faults.sometimes(1.0, capture, ApiFault::ServerError);
    let id = pipeline.hold(1).await;
    assert!(pipeline.pay(id, "pm_card_visa").await);
    let captures = "select count(*) from payment.operations where kind = 'capture'";
    eventually(PATIENCE, async || pipeline.count(captures).await == 1).await;
    pipeline.wait_until_published().await;
    pipeline.crash_bookings().await;
    faults.clear();
    pipeline
        .in_time(async || pipeline.payment(id).await == "captured")
        .await;
    let lost = pipeline.discard(&topology::booking_payments()).await;
    assert_eq!(lost, PaymentCaptured::NAME);

    pipeline.start_bookings(None).await;
    pipeline
        .in_time(async || pipeline.count(PAID).await == 1)
        .await;
    pipeline.close().await;
}

#[tokio::test]
async fn an_authorisation_whose_news_is_lost_keeps_the_seats() {
    let pipeline = Pipeline::open(1).await;
    let id = pipeline.hold(1).await;
    pipeline.crash_bookings().await;
    assert!(pipeline.pay(id, "pm_card_visa").await);
    let lost = pipeline.discard(&topology::booking_payments()).await;
    assert_eq!(lost, PaymentAuthorised::NAME);

    pipeline.start_bookings(None).await;
    pipeline
        .in_time(async || pipeline.booking(id).await == "confirmed")
        .await;
    pipeline.close().await;
}

#[tokio::test]
async fn a_paid_booking_whose_news_is_lost_is_mailed_all_the_same() {
    let pipeline = Pipeline::open(1).await;
    pipeline.sell(1).await;
    // No notifier runs: the test reads its queue.
    let notices = topology::notifier_notices();
    let lost = pipeline.taken(&notices, 2).await;
    assert_eq!(names(&lost), [HoldPlaced::NAME, BookingPaid::NAME]);
    let republished = "select count(*) from booking.republished_news where kind = 'paid'";
    pipeline
        .in_time(async || pipeline.count(republished).await == 1)
        .await;
    let again = pipeline.taken(&notices, 1).await;
    assert_eq!(again[0], lost[1]);
    pipeline.close().await;
}

#[tokio::test]
async fn a_refund_whose_news_is_lost_is_mailed_all_the_same() {
    let pipeline = Pipeline::open(1).await;
    let id = pipeline.sell(1).await;
    pipeline
        .in_time(async || pipeline.count(PAID).await == 1)
        .await;
    pipeline.cancel(id, 1).await;
    let notices = topology::notifier_notices();
    let lost = pipeline.taken(&notices, 4).await;
    // No notifier runs, so the cancellation is published again, too.
    let republished = "select
        (select count(*) from payment.refunds where republished_at is not null)
        + (select count(*) from booking.republished_news where kind = 'ended')";
    pipeline
        .in_time(async || pipeline.count(republished).await == 2)
        .await;
    let again = pipeline.taken(&notices, 2).await;
    let of = |messages: &[(String, Value)], expected| {
        let found = messages.iter().find(|(name, _)| name == expected);
        found.cloned().unwrap().1
    };
    let refund = RefundSucceeded::NAME;
    assert_eq!(of(&again, refund), of(&lost, refund));
    let cancelled = |messages| {
        let mut message = of(messages, BookingCancelled::NAME);
        // The database keeps microseconds.
        assert!(message["asked"]["at"].take().is_string());
        message
    };
    assert_eq!(cancelled(&again), cancelled(&lost));
    pipeline.close().await;
}

#[tokio::test]
async fn an_expiry_whose_news_is_lost_is_mailed_all_the_same() {
    let pipeline = Pipeline::open(1).await;
    let id = pipeline.hold(1).await;
    pipeline
        .in_time(async || pipeline.booking(id).await == "expired")
        .await;
    let notices = topology::notifier_notices();
    let lost = pipeline.taken(&notices, 2).await;
    assert_eq!(names(&lost), [HoldPlaced::NAME, BookingExpired::NAME]);
    let republished = "select count(*) from booking.republished_news where kind = 'ended'";
    pipeline
        .in_time(async || pipeline.count(republished).await == 1)
        .await;
    let again = pipeline.taken(&notices, 1).await;
    assert_eq!(again[0], lost[1]);
    pipeline.close().await;
}

#[tokio::test]
async fn what_nobody_needs_any_more_is_deleted_and_what_is_open_stays() {
    let pipeline = Pipeline::open(2).await;
    pipeline.sell(1).await;
    pipeline.come_to_rest().await;
    let kept = "select (select count(*) from payment.webhook_inbox)
        + (select count(*) from payment.operations)";
    assert!(pipeline.count(kept).await > 0);
    // Past the retention, and then from turn to turn: the first comes an hour after the start.
    let mut step = TimeDelta::days(91);
    eventually(PATIENCE, async || {
        pipeline
            .clock
            .jump(std::mem::replace(&mut step, TimeDelta::hours(1)));
        pipeline.count(kept).await == 0
    })
    .await;
    let payments = "select count(*) from payment.payments where state = 'captured'";
    assert_eq!(pipeline.count(payments).await, 1);
    pipeline.close().await;
}
