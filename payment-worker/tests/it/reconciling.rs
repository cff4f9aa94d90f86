//! The reconciler while calls fail and all webhooks are lost.

use std::time::Duration;

use chrono::TimeDelta;
use futures_util::{StreamExt, stream};
use platform::testing::eventually;
use stand_ins::stripe::{ApiFault, Operation, WebhookFault};

use crate::pipeline::{PATIENCE, Pipeline, UNLIMITED};

/// Pause between two comparisons: several end before the hold does. At its end the cancellation
/// reads the PaymentIntent, too, and may meet the fault that is meant for the comparison.
const PAUSE: TimeDelta = TimeDelta::seconds(1);
const CAPTURED: &str = "select count(*) from payment.payments where state = 'captured'";

impl Pipeline {
    /// Authorises this many payments, all webhooks lost.
    async fn pay_unheard(&self, buyers: i64) {
        self.lose_webhooks();
        let buying = (0..buyers).map(async |account| {
            let id = self.hold(account).await;
            assert!(self.pay(id, "pm_card_visa").await);
        });
        stream::iter(buying).buffer_unordered(16).count().await;
    }
}

#[tokio::test]
async fn one_payment_that_can_not_be_compared_holds_up_no_other() {
    let pipeline = Pipeline::open_with(8, |config| {
        config.stripe_timeout = UNLIMITED;
        config.reconcile_interval = Duration::from_secs(3_600);
    })
    .await;
    pipeline.pay_unheard(8).await;
    pipeline.clock.jump(PAUSE);
    // Two reads of a round are cut; a round that ended there would take four rounds.
    let faults = pipeline.stripe.faults();
    let cut = ApiFault::CutBeforeEffect;
    faults.next(2, Operation::RetrievePaymentIntent, cut);
    let reconciled = pipeline.reconcile(0).await;
    assert_eq!(reconciled.failed, 2, "{reconciled:?}");
    eventually(PATIENCE, async || pipeline.count(CAPTURED).await >= 6).await;
    pipeline.clock.jump(PAUSE);
    pipeline.reconcile(0).await;
    eventually(PATIENCE, async || pipeline.count(CAPTURED).await == 8).await;
    pipeline.close().await;
}

#[tokio::test]
async fn only_what_stripe_does_not_know_is_missing() {
    let pipeline = Pipeline::open_with(2, |config| {
        config.stripe_timeout = UNLIMITED;
        config.reconcile_interval = Duration::from_secs(3_600);
    })
    .await;
    pipeline.pay_unheard(1).await;
    for (status, failed, missing) in [(400, 1, 0), (404, 0, 1)] {
        let faults = pipeline.stripe.faults();
        let refused = ApiFault::Refused { status };
        faults.next(1, Operation::RetrievePaymentIntent, refused);
        pipeline.clock.jump(PAUSE);
        let reconciled = pipeline.reconcile(0).await;
        assert_eq!(reconciled.failed, failed, "{status}: {reconciled:?}");
        let of_kind = |finding: &&payment_worker::Finding| finding.kind == "missing";
        let findings = reconciled.findings.iter().filter(of_kind).count();
        assert_eq!(findings, missing, "{status}: {reconciled:?}");
    }
    pipeline.close().await;
}

#[tokio::test]
async fn a_page_that_does_not_come_is_asked_for_again() {
    let pipeline = Pipeline::open_with(2, |config| {
        config.stripe_timeout = UNLIMITED;
        config.reconcile_interval = Duration::from_secs(3_600);
    })
    .await;
    pipeline.pay_unheard(2).await;
    let faults = pipeline.stripe.faults();
    let hang = ApiFault::CutBeforeEffect;
    faults.sometimes(1.0, Operation::RetrievePaymentIntent, hang);
    faults.next(1, Operation::ListPaymentIntents, hang);
    let reconciled = pipeline.reconcile(1).await;
    assert_eq!((reconciled.compared, reconciled.repaired), (2, 2));
    faults.clear();
    pipeline.close().await;
}

/// Stripe repeats a lost webhook only after minutes to hours: nobody waits for that.
#[tokio::test]
async fn after_an_outage_every_buyer_has_tickets_in_time_without_a_second_webhook() {
    const BUYERS: i64 = 110;
    let pipeline = Pipeline::open_with(110, |config| {
        config.stripe_timeout = UNLIMITED;
        config.reconcile_interval = Duration::from_secs(3_600);
    })
    .await;
    pipeline.pay_unheard(BUYERS).await;
    assert_eq!(pipeline.count(CAPTURED).await, 0);
    let requests = pipeline.stripe.requests().accepted;
    let reconciled = pipeline.reconcile(0).await;
    assert_eq!(reconciled.failed, 0);
    eventually(PATIENCE, async || pipeline.count(CAPTURED).await == BUYERS).await;
    // Compared by lists: far fewer calls than one for each.
    let calls = pipeline.stripe.requests().accepted - requests;
    let most = u64::try_from(BUYERS + 20).unwrap();
    assert!(calls <= most, "{calls} calls");
    pipeline.close().await;
}

#[tokio::test]
async fn what_another_installation_charges_is_no_finding_here() {
    let pipeline = Pipeline::open_with(2, |config| {
        config.reconcile_interval = Duration::from_secs(3_600);
    })
    .await;
    let id = pipeline.sell(1).await;
    pipeline.come_to_rest().await;
    let forget = "delete from payment.operations";
    sqlx::query(forget)
        .execute(&pipeline.app.ctx.db)
        .await
        .unwrap();
    let forget = "delete from payment.payments";
    sqlx::query(forget)
        .execute(&pipeline.app.ctx.db)
        .await
        .unwrap();
    let found = |reconciled: &payment_worker::Reconciled| {
        let kinds = reconciled
            .findings
            .iter()
            .map(|finding| finding.kind.clone());
        kinds.collect::<Vec<_>>()
    };
    // Of this installation, as after a restore that lost the payment.
    let ours = pipeline.reconcile(1).await;
    assert_eq!(found(&ours), ["unknown_charge"], "{id}");
    sqlx::query("delete from payment.findings")
        .execute(&pipeline.app.ctx.db)
        .await
        .unwrap();
    sqlx::query("update payment.installation set token = gen_random_uuid()")
        .execute(&pipeline.app.ctx.db)
        .await
        .unwrap();
    let theirs = pipeline.reconcile(1).await;
    assert!(found(&theirs).is_empty(), "{theirs:?}");
    pipeline.leave().await;
}

/// Charges a card on the Stripe account for something that is not sold here; returns the id of the
/// PaymentIntent, the first of all.
async fn charge_elsewhere(pipeline: &Pipeline) -> String {
    let form = [
        ("amount", "500"),
        ("currency", "eur"),
        ("payment_method", "pm_card_visa"),
        ("confirm", "true"),
        ("payment_method_types[]", "card"),
    ];
    pipeline.in_dashboard("/v1/payment_intents", &form).await;
    pipeline.stripe.ledger().payment_intents()[0].id.clone()
}

#[tokio::test]
async fn a_dispute_of_somebody_else_is_no_finding_here() {
    let pipeline = Pipeline::open_with(1, |config| {
        config.reconcile_interval = Duration::from_secs(3_600);
    })
    .await;
    let intent = charge_elsewhere(&pipeline).await;
    let path = format!("/test/payment_intents/{intent}/dispute");
    pipeline.in_dashboard(&path, &[]).await;
    let put_aside = "select count(*) from payment.webhook_inbox
        where type = 'charge.dispute.created' and note = 'a dispute of no payment here'";
    eventually(PATIENCE, async || pipeline.count(put_aside).await == 1).await;
    let reconciled = pipeline.reconcile(1).await;
    assert!(reconciled.findings.is_empty(), "{reconciled:?}");
    pipeline.leave().await;
}

#[tokio::test]
async fn a_refund_of_somebody_else_is_not_repaired_again_and_again() {
    let pipeline = Pipeline::open_with(1, |config| {
        config.reconcile_interval = Duration::from_secs(3_600);
    })
    .await;
    let webhooks = pipeline.stripe.webhooks().faults();
    webhooks.sometimes(1.0, None::<String>, WebhookFault::Lost);
    let intent = charge_elsewhere(&pipeline).await;
    let refund = [("payment_intent", intent.as_str())];
    pipeline.in_dashboard("/v1/refunds", &refund).await;
    for _ in 0..2 {
        let reconciled = pipeline.reconcile(1).await;
        assert_eq!((reconciled.compared, reconciled.repaired), (1, 0));
    }
    pipeline.leave().await;
}
