//! Races: the end of the hold against the authorisation, a cancellation against the capture.
//! `ONSALE_RACES` sets how often each is run in each order (20).

use std::time::Duration;

use chrono::TimeDelta;
use domain::BookingId;
use futures_util::future::join_all;
use platform::testing::eventually;
use stand_ins::stripe::{ApiFault, Operation, Status};
use tokio::sync::Notify;
use tokio::time::sleep;

use crate::pipeline::{HOLD_SECONDS, PATIENCE, Pipeline};
use crate::setting;

/// Races run at once.
const AT_ONCE: usize = 20;

const PAST_THE_HOLD: TimeDelta = TimeDelta::seconds(HOLD_SECONDS as i64 + 1);

/// What comes first.
#[derive(Clone, Copy, PartialEq)]
enum Arrival {
    /// The hold expires before the buyer authorises; the booking is cancelled before the capture.
    EndFirst,
    /// The other way round.
    MoneyFirst,
}

async fn hold_many(pipeline: &Pipeline, count: usize) -> Vec<BookingId> {
    let mut ids = Vec::new();
    for account in 0..count {
        ids.push(pipeline.request(i64::try_from(account).unwrap(), 1).await);
    }
    for id in &ids {
        pipeline.wait_for_intent(*id).await;
    }
    ids
}

#[tokio::test]
async fn one_second_late_is_in_time_while_the_seat_is_pinned() {
    for seats in [2, 1] {
        let pipeline = Pipeline::open(seats).await;
        // The read that decides does not reach Stripe before the buyer has paid.
        let faults = pipeline.stripe.faults();
        let cut = ApiFault::CutBeforeEffect;
        faults.sometimes(1.0, Operation::RetrievePaymentIntent, cut);
        let late = pipeline.hold(1).await;
        pipeline.clock.jump(PAST_THE_HOLD);
        let ending = "select count(*) from payment.operations where kind = 'cancel' and tries > 0";
        eventually(PATIENCE, async || pipeline.count(ending).await == 1).await;
        assert!(pipeline.pay(late, "pm_card_visa").await);
        faults.clear();
        if seats == 1 {
            let other = pipeline.request(2, 1).await;
            pipeline.wait_for_booking(other, "rejected").await;
        }
        pipeline.wait_for_booking(late, "confirmed").await;
        pipeline.close().await;
    }
}

#[tokio::test]
async fn too_late_is_refused_by_stripe_and_costs_nothing() {
    for sold_on in [false, true] {
        let pipeline = Pipeline::open(1).await;
        let late = pipeline.hold(1).await;
        pipeline.clock.jump(PAST_THE_HOLD);
        pipeline.wait_for_booking(late, "expired").await;
        if sold_on {
            pipeline.sell(2).await;
        }
        assert!(!pipeline.pay(late, "pm_card_visa").await);
        pipeline.assert_kept().await;
        let intent = pipeline.intent(late).await.unwrap();
        let intent = pipeline.stripe.ledger().payment_intent(&intent).unwrap();
        assert_eq!(intent.status, Status::Canceled);
        assert_eq!(pipeline.booking(late).await, "expired");
        pipeline.close().await;
    }
}

/// Runs one batch; returns how many buyers got tickets.
async fn expire_against_authorise(pipeline: &Pipeline, count: usize, arrival: Arrival) -> usize {
    let ids = hold_many(pipeline, count).await;
    let one_paid = Notify::new();
    let has_paid = &one_paid;
    let paying = ids.iter().zip(0_u64..).map(|(id, number)| async move {
        if arrival == Arrival::EndFirst {
            sleep(Duration::from_millis(number * 70)).await;
        }
        if arrival == Arrival::EndFirst && number % 2 == 1 {
            // Certainly too late.
            eventually(PATIENCE, async || pipeline.booking(*id).await != "held").await;
        }
        let paid = pipeline.pay(*id, "pm_card_visa").await;
        if paid {
            has_paid.notify_one();
        }
        paid
    });
    let ending = async {
        if arrival == Arrival::MoneyFirst {
            // One is certainly in time.
            one_paid.notified().await;
        }
        pipeline.clock.jump(PAST_THE_HOLD);
    };
    let (paid, ()) = tokio::join!(join_all(paying), ending);
    pipeline.assert_kept().await;
    let mut won = 0;
    for (id, paid) in ids.iter().zip(&paid) {
        let state = pipeline.booking(*id).await;
        won += usize::from(state == "confirmed");
        assert!(state == "expired" || *paid, "{id} is {state} unpaid");
        if state == "expired" {
            // An authorisation between the last read and the cancellation is released by it.
            let intent = pipeline.intent(*id).await.unwrap();
            let intent = pipeline.stripe.ledger().payment_intent(&intent).unwrap();
            assert_eq!(intent.status, Status::Canceled, "{id}");
        }
    }
    won
}

#[tokio::test]
async fn the_end_of_the_hold_against_the_authorisation() {
    let runs: usize = setting("ONSALE_RACES", 20);
    let pipeline = Pipeline::open(u32::try_from(runs * 2 + AT_ONCE).unwrap()).await;
    for arrival in [Arrival::EndFirst, Arrival::MoneyFirst] {
        let mut won = 0;
        for begun in (0..runs).step_by(AT_ONCE) {
            let count = AT_ONCE.min(runs - begun);
            won += expire_against_authorise(&pipeline, count, arrival).await;
        }
        match arrival {
            Arrival::EndFirst => assert!(won < runs, "nobody was late"),
            Arrival::MoneyFirst => assert!(won > 0, "nobody was in time"),
        }
    }
    pipeline.close().await;
}

/// Runs one batch; returns how many captures came first and were refunded.
async fn cancel_against_capture(pipeline: &Pipeline, count: usize, arrival: Arrival) -> usize {
    let ids = hold_many(pipeline, count).await;
    let racing = ids.iter().zip(0..).map(|(id, account)| async move {
        if arrival == Arrival::EndFirst && account == 0 {
            // Certainly in time.
            pipeline.cancel(*id, 0).await;
            pipeline.wait_for_booking(*id, "cancelled").await;
            assert!(!pipeline.pay(*id, "pm_card_visa").await);
            return;
        }
        assert!(pipeline.pay(*id, "pm_card_visa").await);
        match arrival {
            Arrival::EndFirst => sleep(Duration::from_millis(account * 10)).await,
            Arrival::MoneyFirst => {
                let intent = pipeline.intent(*id).await.unwrap();
                let taken = || pipeline.stripe.ledger().captured_total(&intent);
                eventually(PATIENCE, async || taken() > 0).await;
            }
        }
        pipeline.cancel(*id, i64::try_from(account).unwrap()).await;
    });
    join_all(racing).await;
    pipeline.assert_kept().await;
    let mut taken = 0;
    for id in &ids {
        assert_eq!(pipeline.booking(*id).await, "cancelled", "{id}");
        let intent = pipeline.intent(*id).await.unwrap();
        let captured = pipeline.stripe.ledger().captured_total(&intent);
        assert_eq!(pipeline.stripe.ledger().refunded_total(&intent), captured);
        taken += usize::from(captured > 0);
    }
    taken
}

#[tokio::test]
async fn a_cancellation_against_the_capture() {
    let runs: usize = setting("ONSALE_RACES", 20);
    let pipeline = Pipeline::open(u32::try_from(AT_ONCE).unwrap()).await;
    for arrival in [Arrival::EndFirst, Arrival::MoneyFirst] {
        let mut taken = 0;
        for begun in (0..runs).step_by(AT_ONCE) {
            let count = AT_ONCE.min(runs - begun);
            taken += cancel_against_capture(&pipeline, count, arrival).await;
        }
        match arrival {
            Arrival::EndFirst => assert!(taken < runs, "no cancellation was in time"),
            Arrival::MoneyFirst => assert_eq!(taken, runs),
        }
    }
    pipeline.close().await;
}
