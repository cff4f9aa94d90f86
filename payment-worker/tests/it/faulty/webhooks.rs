use chrono::TimeDelta;
use domain::BookingId;
use domain::clock::Clock;
use futures_util::future::join_all;
use platform::testing::eventually;
use serde_json::Value;
use stand_ins::stripe::WebhookFault;
use stripe_webhook::Webhook;

use super::Trade;
use crate::pipeline::{PATIENCE, Pipeline};

impl Pipeline {
    /// Posts a webhook signed at `age` before now; returns the status.
    async fn post(&self, body: String, secret: &str, age: TimeDelta) -> u16 {
        let signed_at = (self.clock.now() - age).timestamp();
        let signature = Webhook::generate_test_header(&body, secret, Some(signed_at));
        let url = self.public_url("/api/webhooks/stripe");
        let request = self.http.post(url).header("stripe-signature", signature);
        request.body(body).send().await.unwrap().status().as_u16()
    }

    /// The events about a booking, oldest first.
    async fn events_of(&self, id: BookingId) -> Vec<Value> {
        let intent = self.intent(id).await.unwrap();
        let events = self.stripe.webhooks().events();
        let events = events
            .iter()
            .map(|e| serde_json::from_slice(&e.body).unwrap());
        let is_about = |event: &Value| {
            let object = &event["data"]["object"];
            object["id"] == intent || object["payment_intent"] == intent
        };
        events.filter(is_about).collect()
    }

    /// Delivers an event, or a copy of it under another id.
    async fn deliver(&self, event: &Value, copy: Option<&str>) {
        let mut event = event.clone();
        if let Some(copy) = copy {
            let id = format!("{}{copy}", event["id"].as_str().unwrap());
            event["id"] = id.into();
        }
        let secret = self.stripe.webhook_secret().to_owned();
        let status = self
            .post(event.to_string(), &secret, TimeDelta::zero())
            .await;
        assert_eq!(status, 200);
    }
}

/// Every permutation of `0..count`.
fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(count - 1).into_iter();
    let longer = shorter.flat_map(|order| {
        (0..count).map(move |at| {
            let mut order = order.clone();
            order.insert(at, count - 1);
            order
        })
    });
    longer.collect()
}

#[tokio::test]
async fn ten_concurrent_copies_of_each_webhook() {
    let pipeline = Pipeline::open(10).await;
    let copies = WebhookFault::Duplicated { copies: 10 };
    pipeline
        .stripe
        .webhooks()
        .faults()
        .sometimes(1.0, None::<String>, copies);
    let trade = Trade::begin(&pipeline).await;
    trade.end(&pipeline).await;
    trade.assert_done(&pipeline).await;
    pipeline.close().await;
}

#[tokio::test]
async fn reordered_webhooks_that_come_up_to_seconds_late() {
    let pipeline = Pipeline::open(10).await;
    let late = WebhookFault::Reordered {
        within_milliseconds: 2_000,
    };
    pipeline
        .stripe
        .webhooks()
        .faults()
        .sometimes(1.0, None::<String>, late);
    let trade = Trade::begin(&pipeline).await;
    trade.end(&pipeline).await;
    trade.assert_done(&pipeline).await;
    pipeline.close().await;
}

#[tokio::test]
async fn all_webhooks_lost() {
    let pipeline = Pipeline::open_with(10, |config| {
        config.reconcile_after = std::time::Duration::from_millis(100);
    })
    .await;
    pipeline.lose_webhooks();
    let trade = Trade::begin(&pipeline).await;
    trade.end(&pipeline).await;
    trade.assert_done(&pipeline).await;
    pipeline.close().await;
}

/// The events without those that only repeat another: each attempt to pay is also reported as a
/// charge.
fn without_charges(events: &[Value]) -> Vec<&Value> {
    const OTHER_WORDS: [&str; 3] = ["charge.failed", "charge.succeeded", "charge.captured"];
    let says_more = |event: &&Value| !OTHER_WORDS.contains(&event["type"].as_str().unwrap());
    events.iter().filter(says_more).collect()
}

/// A declined card and one with 3-D Secure cause four events before any is delivered; they arrive
/// in every order, and so do the three of capture and refund.
#[tokio::test]
async fn all_orders_of_the_webhooks_of_one_payment_end_the_same() {
    let pipeline = Pipeline::open_with(40, |config| {
        config.reconcile_interval = std::time::Duration::from_secs(3_600);
    })
    .await;
    pipeline.lose_webhooks();
    let authorising = orders(4);
    let mut ids = Vec::new();
    for account in 0..authorising.len() {
        ids.push(pipeline.request(i64::try_from(account).unwrap(), 1).await);
    }
    for id in &ids {
        pipeline.wait_for_intent(*id).await;
        assert!(!pipeline.pay(*id, "pm_card_visa_chargeDeclined").await);
        assert!(pipeline.pay(*id, "pm_card_threeDSecure2Required").await);
        assert!(pipeline.authenticate(*id).await);
    }
    for (id, order) in ids.iter().zip(&authorising) {
        let events = pipeline.events_of(*id).await;
        let events = without_charges(&events);
        assert_eq!(events.len(), 4, "{events:#?}");
        for at in order {
            pipeline.deliver(events[*at], None).await;
        }
    }
    for (account, id) in ids.iter().enumerate() {
        pipeline.wait_for_payment(*id, "captured").await;
        pipeline.cancel(*id, i64::try_from(account).unwrap()).await;
    }
    let refunds = || pipeline.stripe.ledger().refunds().len();
    eventually(PATIENCE, async || refunds() == ids.len()).await;
    let settling = orders(3);
    for (number, id) in ids.iter().enumerate() {
        let all = pipeline.events_of(*id).await;
        let events = without_charges(&all);
        assert_eq!((events.len(), all.len()), (7, 10), "{all:#?}");
        for at in &settling[number % settling.len()] {
            pipeline.deliver(events[4 + at], None).await;
        }
        // Days later all are repeated as new events, the last one first.
        for event in all.iter().rev() {
            pipeline.deliver(event, Some("again")).await;
        }
    }
    pipeline.assert_kept().await;
    for id in &ids {
        assert_eq!(pipeline.booking(*id).await, "cancelled");
    }
    assert_eq!(refunds(), ids.len());
    pipeline.close().await;
}

#[tokio::test]
async fn forged_stale_and_re_encoded_webhooks_give_no_ticket() {
    let pipeline = Pipeline::open(10).await;
    pipeline.lose_webhooks();
    let (unpaid, paid) = (pipeline.hold(1).await, pipeline.hold(2).await);
    assert!(pipeline.pay(paid, "pm_card_visa").await);
    let events = pipeline.events_of(paid).await;
    let authorised = events.last().unwrap().to_string();
    let (mine, theirs) = (pipeline.intent(unpaid).await, pipeline.intent(paid).await);
    let forged = authorised.replace(&theirs.unwrap(), &mine.unwrap());
    let secret = pipeline.stripe.webhook_secret().to_owned();
    let url = pipeline.public_url("/api/webhooks/stripe");
    let now = pipeline.clock.now().timestamp();
    let signature = Webhook::generate_test_header(&authorised, &secret, Some(now));

    let sends = [
        pipeline.post(forged.clone(), "whsec_guessed", TimeDelta::zero()),
        pipeline.post(forged.clone(), "", TimeDelta::zero()),
        pipeline.post(authorised.clone(), &secret, TimeDelta::seconds(302)),
        pipeline.post(authorised.clone(), &secret, TimeDelta::seconds(-330)),
    ];
    assert_eq!(join_all(sends).await, [400; 4]);
    // One body with the signature of another; and the same JSON in another form.
    let read: Value = serde_json::from_str(&authorised).unwrap();
    for body in [forged, serde_json::to_string_pretty(&read).unwrap()] {
        let request = pipeline
            .http
            .post(&url)
            .header("stripe-signature", &signature);
        assert_eq!(request.body(body).send().await.unwrap().status(), 400);
    }
    let stored = "select count(*) from payment.webhook_inbox";
    assert_eq!(pipeline.count(stored).await, 0);
    assert_eq!(pipeline.booking(unpaid).await, "held");
    pipeline.close().await;
}
