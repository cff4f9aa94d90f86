//! SMS through a Twilio-compatible API.

use domain::message::HoldPlaced;
use platform::testing::eventually;
use stand_ins::mail::MailFault;
use stand_ins::sms::SmsFault;

use crate::stage::{PHONE, SOON, Stage, event};

#[tokio::test]
async fn what_is_urgent_also_goes_out_by_sms_to_those_who_have_a_phone() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, Some(PHONE)).await;
    let paid = stage.paid(&event, 2);
    let id = paid.booking.booking_id;
    stage
        .tell(&HoldPlaced {
            booking: paid.booking.clone(),
        })
        .await;
    stage.mail_is(id, "held", "sent").await;
    let all_sent = async |count: usize| {
        eventually(SOON, async || {
            let rows = stage.rows(id).await;
            rows.len() == count && rows.iter().all(|row| row.state == "sent")
        })
        .await;
    };
    stage.tell(&paid).await;
    all_sent(3).await;
    stage.cancel(&paid).await;
    all_sent(5).await;
    let messages = stage.sms.inbox().to(PHONE);
    let about = |words: &str| {
        messages
            .iter()
            .filter(|sms| sms.body.contains(words))
            .count()
    };
    assert_eq!(about("Your booking for Gala is cancelled"), 1);
    assert_eq!(about("Your 2 tickets for Gala"), 1);
    assert_eq!(messages.len(), 2, "nothing is said of the hold");
    assert!(messages.iter().all(|sms| sms.from == "+4930123456"));
    assert!(
        messages
            .iter()
            .all(|sms| sms.body.contains(&format!("/bookings/{id}")))
    );
    stage.app.finish().await;
}

#[tokio::test]
async fn an_sms_refused_for_now_is_tried_again_and_one_without_an_answer_is_not() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, Some(PHONE)).await;
    let is = |rows: &[crate::stage::Row], state: &str| {
        rows.iter()
            .any(|row| row.channel == "sms" && row.state == state)
    };

    stage
        .sms
        .faults()
        .next(1, PHONE.to_owned(), SmsFault::RateLimit);
    let limited = stage.pay(&event).await.booking.booking_id;
    eventually(SOON, async || is(&stage.rows(limited).await, "sent")).await;
    assert_eq!(stage.sms.inbox().len(), 1);

    stage
        .sms
        .faults()
        .next(1, PHONE.to_owned(), SmsFault::AcceptThenCut);
    let cut = stage.pay(&event).await.booking.booking_id;
    eventually(SOON, async || is(&stage.rows(cut).await, "uncertain")).await;
    let next = stage.pay(&event).await.booking.booking_id;
    eventually(SOON, async || is(&stage.rows(next).await, "sent")).await;
    assert_eq!(stage.sms.inbox().len(), 3, "each was taken once");
    stage.app.finish().await;
}

#[tokio::test]
async fn a_mail_server_that_hangs_delays_no_sms() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, Some(PHONE)).await;
    let an_hour = MailFault::Delay {
        milliseconds: 3_600_000,
    };
    stage.mail.faults().sometimes(1.0, None, an_hour);
    // More than the concurrency limit.
    for _ in 0..12 {
        stage.pay(&event).await;
    }
    stage.sms.inbox().wait_for(12, SOON).await.unwrap();
}

#[tokio::test]
async fn what_costs_nothing_to_cause_reaches_a_phone_only_so_often() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, Some(PHONE)).await;
    let texts = "select count(*) from notifier.notifications
                 where channel = 'sms' and state in ('sent', 'skipped')";
    for round in 1..=4 {
        let mut free = stage.paid(&event, 1);
        free.booking.total.amount_minor = 0;
        stage.tell(&free).await;
        eventually(SOON, async || stage.number(texts).await == round * 2 - 1).await;
        stage.cancel(&free).await;
        eventually(SOON, async || stage.number(texts).await == round * 2).await;
    }
    assert_eq!(stage.sms.inbox().to(PHONE).len(), 5);
    let paid = stage.pay(&event).await.booking.booking_id;
    let is_sent = |row: &crate::stage::Row| row.channel == "sms" && row.state == "sent";
    eventually(SOON, async || stage.rows(paid).await.iter().any(is_sent)).await;
    stage.app.finish().await;
}
