//! Webhook delivery to a receiver that refuses events and counts them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use chrono::TimeDelta;
use domain::clock::{Clock as _, ManualClock};
use platform::testing::eventually;
use stand_ins::stripe::{Config, Deliveries, RefundStatus, Retry, WebhookFault};
use stripe::StripeRequest;
use stripe_core::payment_intent::CancelPaymentIntent;
use stripe_webhook::{EventObject, Webhook};

use super::{PATIENCE, Stage};

/// Polling period of the sender's clock.
const LOOK_AT_CLOCK: Duration = Duration::from_millis(50);

/// Accepts events after refusing the first `refusals`.
#[derive(Default)]
struct Receiver {
    refusals: AtomicU32,
    events: Mutex<Vec<(String, String)>>,
}

impl Receiver {
    async fn start(refusals: u32) -> (Arc<Self>, String) {
        let receiver = Arc::new(Self {
            refusals: refusals.into(),
            ..Self::default()
        });
        let app = Router::new()
            .route("/", post(receive))
            .with_state(Arc::clone(&receiver));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (receiver, url)
    }

    fn kinds(&self, secret: &str) -> Vec<String> {
        let events = self.events.lock().unwrap();
        let kind = |(body, signature): &(String, String)| {
            Webhook::construct_event(body, signature, secret)
                .unwrap()
                .type_
                .to_string()
        };
        events.iter().map(kind).collect()
    }
}

async fn receive(
    State(receiver): State<Arc<Receiver>>,
    headers: HeaderMap,
    body: String,
) -> StatusCode {
    let refuse = receiver
        .refusals
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            left.checked_sub(1)
        });
    if refuse.is_ok() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    let signature = headers["stripe-signature"].to_str().unwrap().to_owned();
    receiver.events.lock().unwrap().push((body, signature));
    StatusCode::OK
}

fn quick(attempts: u32) -> Config {
    let pause = Duration::from_millis(5);
    let webhook_retry = Retry {
        attempts,
        first_pause: pause,
        longest_pause: pause,
        on_clock: false,
    };
    Config {
        webhook_retry,
        ..Config::default()
    }
}

async fn stage(config: Config, refusals: u32) -> (Stage, Arc<Receiver>) {
    let stage = Stage::with(config).await;
    let (receiver, url) = Receiver::start(refusals).await;
    stage.stripe.set_webhook_url(url);
    (stage, receiver)
}

#[tokio::test]
async fn every_step_is_told_by_a_signed_event_that_parses() {
    let (stage, receiver) = stage(Config::default(), 0).await;
    let intent = stage.captured().await;
    stage.refund(&intent, 1_000).await.unwrap();
    let declined = stage.intent().await;
    stage
        .confirm(&declined, "pm_card_visa_chargeDeclined")
        .await
        .unwrap_err();
    stage
        .confirm(&declined, "pm_card_threeDSecure2Required")
        .await
        .unwrap();
    CancelPaymentIntent::new(declined.id)
        .send(&stage.client)
        .await
        .unwrap();
    stage.stripe.wait_until_delivered(PATIENCE).await.unwrap();

    let mut kinds = receiver.kinds(stage.stripe.webhook_secret());
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        [
            "charge.captured",
            "charge.failed",
            "charge.refunded",
            "charge.succeeded",
            "payment_intent.amount_capturable_updated",
            "payment_intent.canceled",
            "payment_intent.created",
            "payment_intent.created",
            "payment_intent.payment_failed",
            "payment_intent.requires_action",
            "payment_intent.succeeded",
            "refund.created",
        ]
    );
    let events = receiver.events.lock().unwrap();
    for (body, signature) in events.iter() {
        let event =
            Webhook::construct_event(body, signature, stage.stripe.webhook_secret()).unwrap();
        if let EventObject::PaymentIntentSucceeded(paid) = event.data.object {
            assert_eq!(
                (paid.id.as_str(), paid.amount_received),
                (intent.id.as_str(), 5_000)
            );
        }
        assert!(Webhook::construct_event(body, signature, "whsec_other").is_err());
    }
}

#[tokio::test]
async fn a_refused_event_is_sent_again_until_it_is_taken() {
    let (stage, receiver) = stage(quick(10), 5).await;
    stage.intent().await;
    stage.stripe.wait_until_delivered(PATIENCE).await.unwrap();
    assert_eq!(
        receiver.kinds(stage.stripe.webhook_secret()),
        ["payment_intent.created"]
    );
}

#[tokio::test]
async fn after_an_outage_of_a_day_an_event_comes_on_stripes_schedule() {
    let clock = ManualClock::at("2026-01-01T00:00:00Z".parse().unwrap());
    let config = Config {
        webhook_retry: Retry::like_stripe(),
        clock: Arc::new(clock.clone()),
        ..Config::default()
    };
    let pauses = [5, 10, 20, 40, 80, 160, 320, 640, 720].map(TimeDelta::minutes);
    let (stage, receiver) = stage(config, 9).await;
    stage.intent().await;
    let left = || receiver.refusals.load(Ordering::Relaxed);
    for (pause, attempts_left) in pauses.into_iter().zip((0..9).rev()) {
        eventually(PATIENCE, async || left() == attempts_left).await;
        clock.advance(pause - TimeDelta::seconds(1));
        // The sender looks at its clock several times meanwhile.
        let since = Instant::now();
        eventually(PATIENCE, async || since.elapsed() > 4 * LOOK_AT_CLOCK).await;
        assert_eq!(left(), attempts_left, "earlier than {pause}");
        assert!(receiver.events.lock().unwrap().is_empty());
        clock.advance(TimeDelta::seconds(1));
    }
    stage.stripe.wait_until_delivered(PATIENCE).await.unwrap();
    let events = receiver.events.lock().unwrap();
    let (_, signature) = &events[0];
    let signed_at = format!("t={},", clock.now().timestamp());
    assert!(signature.starts_with(&signed_at), "{signature}");
}

#[tokio::test]
async fn an_event_that_is_never_taken_is_given_up_and_can_be_sent_again() {
    let (stage, receiver) = stage(quick(3), 3).await;
    stage.intent().await;
    stage.stripe.wait_until_delivered(PATIENCE).await.unwrap();
    let given_up = Deliveries {
        given_up: 1,
        ..Deliveries::default()
    };
    assert_eq!(stage.stripe.webhooks().deliveries(), given_up);

    let event = stage.stripe.webhooks().events().remove(0);
    assert!(stage.stripe.webhooks().resend(&event.id));
    stage.stripe.wait_until_delivered(PATIENCE).await.unwrap();
    assert_eq!(
        receiver.kinds(stage.stripe.webhook_secret()),
        ["payment_intent.created"]
    );
}

#[tokio::test]
async fn webhooks_are_lost_and_duplicated_on_demand() {
    let (stage, receiver) = stage(Config::default(), 0).await;
    let created = || "payment_intent.created".to_owned();
    let faults = stage.stripe.webhooks().faults();
    faults.next(1, created(), WebhookFault::Lost);
    faults.next(1, created(), WebhookFault::Duplicated { copies: 3 });
    stage.intent().await;
    stage.intent().await;
    stage.stripe.wait_until_delivered(PATIENCE).await.unwrap();
    assert_eq!(receiver.kinds(stage.stripe.webhook_secret()).len(), 3);
    assert_eq!(stage.stripe.webhooks().deliveries().lost, 1);
}

#[tokio::test]
async fn a_delayed_webhook_is_overtaken() {
    let (stage, receiver) = stage(Config::default(), 0).await;
    let late = WebhookFault::Delayed {
        milliseconds: 600_000,
    };
    let faults = stage.stripe.webhooks().faults();
    faults.next(1, "payment_intent.created".to_owned(), late);
    stage.authorised().await;
    let kinds = || receiver.kinds(stage.stripe.webhook_secret());
    eventually(PATIENCE, async || kinds().len() == 2).await;
    faults.clear();
    stage.stripe.wait_until_delivered(PATIENCE).await.unwrap();
    let mut kinds = kinds();
    // The two events of one call are sent concurrently, and may arrive in any order.
    kinds[..2].sort_unstable();
    assert_eq!(
        kinds,
        [
            "charge.succeeded",
            "payment_intent.amount_capturable_updated",
            "payment_intent.created"
        ]
    );
}

#[tokio::test]
async fn late_refunds_end_by_themselves_and_a_failed_one_frees_its_amount() {
    for (card, first, end, left) in [
        (
            "pm_card_pendingRefund",
            "pending",
            RefundStatus::Succeeded,
            5_000,
        ),
        ("pm_card_refundFail", "succeeded", RefundStatus::Failed, 0),
    ] {
        let stage = Stage::set().await;
        let intent = stage.intent().await;
        stage.confirm(&intent, card).await.unwrap();
        stripe_core::payment_intent::CapturePaymentIntent::new(intent.id.clone())
            .send(&stage.client)
            .await
            .unwrap();
        let refund = stage.refund(&intent, 5_000).await.unwrap();
        assert_eq!(refund.status.as_deref(), Some(first));
        eventually(PATIENCE, async || {
            stage.stripe.ledger().refunds()[0].status == end
        })
        .await;
        assert_eq!(
            stage.stripe.ledger().refunded_total(intent.id.as_str()),
            left
        );
    }
}

#[tokio::test]
async fn a_replayed_answer_sends_no_second_event() {
    let (stage, receiver) = stage(Config::default(), 0).await;
    for _ in 0..3 {
        super::create(100)
            .customize()
            .request_strategy(super::keyed("once"))
            .send(&stage.client)
            .await
            .unwrap();
    }
    stage.stripe.wait_until_delivered(PATIENCE).await.unwrap();
    assert_eq!(receiver.kinds(stage.stripe.webhook_secret()).len(), 1);
}

#[tokio::test]
async fn only_the_types_an_endpoint_asks_for_are_sent() {
    let wanted = "payment_intent.succeeded";
    let config = Config {
        webhook_events: vec![wanted.to_owned()],
        ..Config::default()
    };
    let (stage, receiver) = stage(config, 0).await;
    stage.captured().await;
    stage.stripe.wait_until_delivered(PATIENCE).await.unwrap();
    let secret = stage.stripe.webhook_secret();
    assert_eq!(receiver.kinds(secret), [wanted]);
    assert!(stage.stripe.webhooks().events().len() > 1, "all happened");

    stage.stripe.webhooks().enable_events(["*"]);
    stage.intent().await;
    stage.stripe.wait_until_delivered(PATIENCE).await.unwrap();
    assert_eq!(receiver.kinds(secret), [wanted, "payment_intent.created"]);
}

#[tokio::test]
async fn an_authorisation_that_is_given_up_is_told_as_a_refunded_charge() {
    let (stage, receiver) = stage(Config::default(), 0).await;
    let intent = stage.authorised().await;
    CancelPaymentIntent::new(intent.id.clone())
        .send(&stage.client)
        .await
        .unwrap();
    stage.stripe.wait_until_delivered(PATIENCE).await.unwrap();
    let events = receiver.events.lock().unwrap().clone();
    let secret = stage.stripe.webhook_secret();
    let released: Vec<_> = events
        .iter()
        .filter_map(|(body, signature)| {
            match Webhook::construct_event(body, signature, secret)
                .unwrap()
                .data
                .object
            {
                EventObject::ChargeRefunded(charge) => Some(charge),
                _ => None,
            }
        })
        .collect();
    assert_eq!(released.len(), 1);
    assert!(released[0].refunded && !released[0].captured);
    assert_eq!(
        (released[0].amount_refunded, released[0].amount_captured),
        (5_000, 0)
    );
    let given_back = stage.stripe.ledger().refunded_total(intent.id.as_str());
    assert_eq!(given_back, 0, "nothing was taken");
}

#[tokio::test]
async fn each_event_of_a_refund_that_ends_late_is_delivered() {
    for (card, expected) in [
        (
            "pm_card_pendingRefund",
            ["charge.refund.updated", "refund.updated"].as_slice(),
        ),
        (
            "pm_card_refundFail",
            ["charge.refund.updated", "refund.failed", "refund.updated"].as_slice(),
        ),
    ] {
        let (stage, receiver) = stage(Config::default(), 0).await;
        stage
            .stripe
            .webhooks()
            .enable_events(expected.iter().copied());
        let intent = stage.intent().await;
        stage.confirm(&intent, card).await.unwrap();
        stripe_core::payment_intent::CapturePaymentIntent::new(intent.id.clone())
            .send(&stage.client)
            .await
            .unwrap();
        stage.refund(&intent, 5_000).await.unwrap();
        let secret = stage.stripe.webhook_secret();
        eventually(PATIENCE, async || {
            receiver.kinds(secret).len() == expected.len()
        })
        .await;
        let mut kinds = receiver.kinds(secret);
        kinds.sort_unstable();
        assert_eq!(kinds, expected);
    }
}
