use domain::message::{HoldPlaced, PaymentCaptured, RefundSucceeded};
use domain::{Currency, Money};
use stand_ins::stripe::Status;

use crate::pipeline::Pipeline;
use crate::shop::Shop;

#[tokio::test]
async fn in_every_kind_of_currency_stripe_takes_and_returns_what_the_booking_costs() {
    let shop = Shop::open().await;
    for (code, amount_minor, at_stripe) in [
        ("eur", 4_500, 4_500),
        ("huf", 1_500_000, 1_500_000),
        ("jpy", 4_500, 4_500),
        ("kwd", 4_510, 4_510),
        ("isk", 350_000, 350_000),
        ("ugx", 38_000, 3_800_000),
    ] {
        let mut booking = shop.booking();
        booking.total = Money::new(amount_minor, Currency::try_from(code).unwrap());
        shop.send(&HoldPlaced {
            booking: booking.clone(),
        })
        .await;
        let intent = shop.wait_for_intent(&booking).await;
        let intent_at_stripe = || shop.stripe.ledger().payment_intent(&intent).unwrap();
        assert_eq!(intent_at_stripe().amount, at_stripe, "{code}");
        assert!(shop.pay(&booking, "pm_card_visa").await);
        shop.wait_for_state(&booking, "authorised").await;
        shop.confirm(&booking).await;
        shop.wait_until_published::<PaymentCaptured>(&booking).await;
        assert_eq!(intent_at_stripe().amount_received, at_stripe, "{code}");
        shop.cancel(&booking).await;
        shop.wait_until_published::<RefundSucceeded>(&booking).await;
        shop.come_to_rest().await;
        let ledger = shop.stripe.ledger();
        assert_eq!(ledger.refunded_total(&intent), at_stripe, "{code}");
        let (captured, refunded): (i64, i64) = sqlx::query_as(
            "select captured_minor, refunded_minor from payment.payments where booking_id = $1",
        )
        .bind(booking.booking_id.0)
        .fetch_one(&shop.app.ctx.db)
        .await
        .unwrap();
        assert_eq!((captured, refunded), (amount_minor, amount_minor), "{code}");
    }
    shop.reconcile(7).await;
    let findings = "select count(*) from payment.findings";
    assert_eq!(shop.count(findings).await, 0, "Stripe and our tables agree");
    shop.app.finish().await;
}

#[tokio::test]
async fn a_fee_leaves_what_can_go_back() {
    let shop = Shop::open().await;
    let mut booking = shop.booking();
    booking.total = Money::new(4_510, Currency::try_from("kwd").unwrap());
    sqlx::query(
        "insert into payment.refund_policies (event_id, fee_percent, updated_at, updated_by)
         values ($1, 30, now(), 1)",
    )
    .bind(booking.event_id.0)
    .execute(&shop.app.ctx.db)
    .await
    .unwrap();
    shop.send(&HoldPlaced {
        booking: booking.clone(),
    })
    .await;
    let intent = shop.wait_for_intent(&booking).await;
    assert!(shop.pay(&booking, "pm_card_visa").await);
    shop.wait_for_state(&booking, "authorised").await;
    shop.confirm(&booking).await;
    shop.wait_for_state(&booking, "captured").await;
    shop.cancel_by_buyer(&booking).await;
    shop.wait_until_published::<RefundSucceeded>(&booking).await;
    // 30 % are 1.353 dinars, and the smallest step is a hundredth.
    assert_eq!(shop.stripe.ledger().refunded_total(&intent), 3_160);
    shop.come_to_rest().await;
    shop.app.finish().await;
}

/// The right number of another currency.
#[tokio::test]
async fn money_in_another_currency_is_released_and_worth_no_ticket() {
    let pipeline = Pipeline::open(1).await;
    let id = pipeline.hold(1).await;
    let intent = pipeline.intent(id).await.unwrap();
    let other = sqlx::query("update payment.payments set currency = 'usd'");
    other.execute(&pipeline.app.ctx.db).await.unwrap();
    assert!(pipeline.pay(id, "pm_card_visa").await);
    let found = "select count(*) from payment.findings where kind = 'amount_differs'";
    pipeline
        .in_time(async || pipeline.count(found).await == 1)
        .await;
    pipeline
        .in_time(async || pipeline.booking(id).await == "expired")
        .await;
    let at_stripe = || pipeline.stripe.ledger().payment_intent(&intent).unwrap();
    pipeline
        .in_time(async || at_stripe().status == Status::Canceled)
        .await;
    assert_eq!(at_stripe().amount_received, 0);
    let tickets = "select count(*) from booking.tickets";
    assert_eq!(pipeline.count(tickets).await, 0);
    pipeline.close().await;
}
