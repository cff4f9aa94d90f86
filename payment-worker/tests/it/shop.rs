//! One payment worker with its servers and the stand-in; the test plays the booking worker and the
//! buyer.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::TimeDelta;
use domain::booking::{BookedSeat, BookingFacts, TicketFacts};
use domain::message::{
    BookingCancelled, BookingConfirmed, CancelAsked, HoldPlaced, Message, PaymentAuthorised,
    VoidPayment,
};
use domain::payment::VoidReason;
use domain::{AccountId, BookingId, Currency, EventId, Money, SeatId};
use payment_worker::Config;
use platform::amqp::{self, Delivery, Exchange, Handler, QueueSpec, Settings, Verdict};
use platform::service::Running;
use platform::testing::{TestApp, eventually};
use platform::topology;
use sqlx::types::Uuid;
use stand_ins::stripe::{self, StandIn};

/// Longest wait for a condition.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Price of every booking, in cents.
pub(crate) const PRICE: i64 = 9_000;

pub(crate) struct Shop {
    pub(crate) app: TestApp,
    pub(crate) stripe: StandIn,
    pub(crate) http: reqwest::Client,
    running: Running,
    published: Published,
}

/// Messages that the worker published: id, name and booking, in order of arrival.
#[derive(Clone, Default)]
struct Published(Arc<Mutex<Vec<(Uuid, String, Uuid)>>>);

impl Handler for Published {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let body: serde_json::Value = serde_json::from_slice(&delivery.body).unwrap();
        let mut published = self.0.lock().unwrap();
        // The outbox publishes at least once: a copy has the same id.
        let is_copy = published.iter().any(|(id, ..)| *id == delivery.message_id);
        if let Some(id) = body["booking_id"].as_str().filter(|_| !is_copy) {
            published.push((delivery.message_id, delivery.name, id.parse().unwrap()));
        }
        Verdict::Ack
    }
}

fn config(stripe: &StandIn) -> Config {
    let many = NonZeroU32::new(1_000).unwrap();
    Config {
        stripe_secret_key: Some(stripe.secret_key().into()),
        stripe_webhook_secrets: vec!["whsec_next".into(), stripe.webhook_secret().into()],
        stripe_url: stripe.url().parse().unwrap(),
        stripe_timeout: Duration::from_secs(2),
        stripe_rate: many,
        stripe_endpoint_rate: many,
        reconcile_interval: Duration::from_secs(3_600),
        reconcile_after: Duration::from_millis(100),
        ..Config::default()
    }
}

impl Shop {
    /// Without rounds of the reconciler.
    pub(crate) async fn open() -> Self {
        Self::open_with(|_| ()).await
    }

    pub(crate) async fn open_with(configure: impl FnOnce(&mut Config)) -> Self {
        let app = TestApp::start().await;
        topology::declare_all(&app.ctx.broker).await.unwrap();
        let stripe = StandIn::start(stripe::Config::default()).await.unwrap();
        let mut config = config(&stripe);
        configure(&mut config);
        let routes = payment_worker::start(app.ctx.clone(), config)
            .await
            .unwrap();
        let running = app.serve(routes).await;
        stripe.set_webhook_url(format!(
            "http://{}/api/webhooks/stripe",
            running.public_addr
        ));
        let published = Published::default();
        listen(&app, &published, topology::booking_payments());
        listen(&app, &published, topology::notifier_notices());
        Self {
            app,
            stripe,
            http: reqwest::Client::new(),
            running,
            published,
        }
    }

    pub(crate) fn webhook_url(&self) -> String {
        format!("http://{}/api/webhooks/stripe", self.running.public_addr)
    }

    // The booking worker.

    pub(crate) async fn send<M: Message>(&self, message: &M) {
        let exchange = Exchange::for_name(M::NAME);
        self.app
            .ctx
            .broker
            .publish(exchange, M::NAME, message, Uuid::new_v4())
            .await
            .unwrap();
    }

    /// Places a hold, and waits for its PaymentIntent.
    pub(crate) async fn hold(&self) -> BookingFacts {
        let booking = self.booking();
        self.send(&HoldPlaced {
            booking: booking.clone(),
        })
        .await;
        self.wait_for_intent(&booking).await;
        booking
    }

    /// A booking that no table has yet.
    pub(crate) fn booking(&self) -> BookingFacts {
        let now = self.app.ctx.clock.now();
        let seat = BookedSeat {
            id: SeatId(1),
            section: "Stalls".into(),
            row: None,
            number: None,
        };
        BookingFacts {
            booking_id: BookingId::new(now),
            event_id: EventId(1),
            account_id: AccountId(7),
            seats: vec![seat],
            total: Money::new(PRICE, Currency::EUR),
            hold_until: now + Duration::from_secs(600),
            created_at: now,
        }
    }

    pub(crate) async fn confirm(&self, booking: &BookingFacts) {
        let seat = booking.seats[0].clone();
        let tickets = vec![TicketFacts {
            code: "a code of twenty letters".into(),
            seat,
        }];
        self.send(&BookingConfirmed {
            booking: booking.clone(),
            tickets,
        })
        .await;
    }

    pub(crate) async fn cancel(&self, booking: &BookingFacts) {
        self.send(&BookingCancelled {
            booking: booking.clone(),
            was_confirmed: true,
            asked: None,
        })
        .await;
    }

    /// [`cancel`](Self::cancel) on behalf of the buyer.
    pub(crate) async fn cancel_by_buyer(&self, booking: &BookingFacts) {
        self.send(&BookingCancelled {
            booking: booking.clone(),
            was_confirmed: true,
            asked: Some(CancelAsked {
                by: booking.account_id,
                at: self.app.ctx.clock.now(),
            }),
        })
        .await;
    }

    pub(crate) async fn void(&self, booking: &BookingFacts, reason: VoidReason) {
        self.send(&VoidPayment {
            booking_id: booking.booking_id,
            reason,
        })
        .await;
    }

    /// Sells a booking: confirmed and captured.
    pub(crate) async fn sell(&self) -> BookingFacts {
        let booking = self.hold().await;
        self.pay(&booking, "pm_card_visa").await;
        self.wait_until_published::<PaymentAuthorised>(&booking)
            .await;
        self.confirm(&booking).await;
        self.wait_for_state(&booking, "captured").await;
        booking
    }

    /// Reconciles, as `onsale reconcile` does.
    pub(crate) async fn reconcile(&self, days: i64) -> payment_worker::Reconciled {
        let ctx = &self.app.ctx;
        let since = ctx.clock.now() - TimeDelta::days(days);
        let (db, clock) = (ctx.db.clone(), Arc::clone(&ctx.clock));
        payment_worker::reconcile(db, clock, &config(&self.stripe), since)
            .await
            .unwrap()
    }

    // The buyer.

    /// Confirms the PaymentIntent as a browser does; returns whether Stripe accepted the card.
    pub(crate) async fn pay(&self, booking: &BookingFacts, card: &str) -> bool {
        let (intent, secret): (String, String) = sqlx::query_as(
            "select intent_id, client_secret from payment.payments where booking_id = $1",
        )
        .bind(booking.booking_id.0)
        .fetch_one(&self.app.ctx.db)
        .await
        .unwrap();
        let url = format!("{}/v1/payment_intents/{intent}/confirm", self.stripe.url());
        let form = [("client_secret", secret.as_str()), ("payment_method", card)];
        let request = self
            .http
            .post(url)
            .bearer_auth(self.stripe.publishable_key())
            .form(&form);
        request.send().await.unwrap().status().is_success()
    }

    /// Passes 3-D Secure.
    pub(crate) async fn authenticate(&self, booking: &BookingFacts) {
        let intent = self.intent_id(booking).await.unwrap();
        let url = format!(
            "{}/test/payment_intents/{intent}/authenticate",
            self.stripe.url()
        );
        let answer = self
            .http
            .post(url)
            .form(&[("outcome", "success")])
            .send()
            .await
            .unwrap();
        assert!(
            answer.status().is_success(),
            "{}",
            answer.text().await.unwrap()
        );
    }

    // Observations.

    pub(crate) async fn intent_id(&self, booking: &BookingFacts) -> Option<String> {
        let query = "select intent_id from payment.payments where booking_id = $1";
        let found: Option<Option<String>> = sqlx::query_scalar(query)
            .bind(booking.booking_id.0)
            .fetch_optional(&self.app.ctx.db)
            .await
            .unwrap();
        found.flatten()
    }

    pub(crate) async fn wait_for_intent(&self, booking: &BookingFacts) -> String {
        eventually(PATIENCE, async || self.intent_id(booking).await.is_some()).await;
        self.intent_id(booking).await.unwrap()
    }

    pub(crate) async fn state(&self, booking: &BookingFacts) -> String {
        let query = "select state from payment.payments where booking_id = $1";
        let state: Option<String> = sqlx::query_scalar(query)
            .bind(booking.booking_id.0)
            .fetch_optional(&self.app.ctx.db)
            .await
            .unwrap();
        state.unwrap_or_default()
    }

    pub(crate) async fn wait_for_state(&self, booking: &BookingFacts, state: &str) {
        eventually(PATIENCE, async || self.state(booking).await == state).await;
    }

    /// Number of times the worker published this message about this booking.
    pub(crate) fn published<M: Message>(&self, booking: &BookingFacts) -> usize {
        let published = self.published.0.lock().unwrap();
        published
            .iter()
            .filter(|(_, name, id)| name == M::NAME && *id == booking.booking_id.0)
            .count()
    }

    pub(crate) async fn wait_until_published<M: Message>(&self, booking: &BookingFacts) {
        eventually(PATIENCE, async || self.published::<M>(booking) > 0).await;
    }

    pub(crate) async fn count(&self, query: &'static str) -> i64 {
        sqlx::query_scalar(query)
            .fetch_one(&self.app.ctx.db)
            .await
            .unwrap()
    }

    /// Waits until nothing is in flight: no message, call to Stripe or webhook.
    pub(crate) async fn come_to_rest(&self) {
        self.stripe.wait_until_delivered(PATIENCE).await.unwrap();
        let under_way = "select
            (select count(*) from payment.operations where state = 'pending')
            + (select count(*) from payment.webhook_inbox where processed_at is null)
            + (select count(*) from platform.outbox)";
        eventually(PATIENCE, async || self.count(under_way).await == 0).await;
    }

    /// At rest the tables agree with Stripe's ledger: nothing is charged twice (I4), refunds are
    /// covered (I11), and each charge has its ticket or was refunded (I2).
    pub(crate) async fn close(self, with_tickets: &[&BookingFacts]) {
        self.come_to_rest().await;
        let rows: Vec<(Uuid, String, Option<String>, i64, i64)> = sqlx::query_as(
            "select booking_id, state, intent_id, captured_minor, refunded_minor
             from payment.payments",
        )
        .fetch_all(&self.app.ctx.db)
        .await
        .unwrap();
        let ledger = self.stripe.ledger();
        let mut charges: BTreeMap<String, usize> = BTreeMap::new();
        for intent in ledger
            .payment_intents()
            .iter()
            .filter(|i| i.amount_received > 0)
        {
            *charges
                .entry(intent.metadata["booking_id"].clone())
                .or_default() += 1;
        }
        assert!(charges.values().all(|count| *count == 1), "I4: {charges:?}");
        let known = rows.iter().filter(|row| row.3 > 0).count();
        assert_eq!(charges.len(), known, "every charge is known");
        for (id, state, intent, captured, refunded) in rows {
            let intent = intent.unwrap_or_default();
            assert_eq!(ledger.captured_total(&intent), captured, "{id} is {state}");
            assert_eq!(ledger.refunded_total(&intent), refunded, "{id} is {state}");
            assert!(refunded <= captured, "I11: {id}");
            let has_tickets = with_tickets
                .iter()
                .any(|booking| booking.booking_id.0 == id);
            let kept = captured - refunded;
            assert_eq!(
                kept,
                if has_tickets { PRICE } else { 0 },
                "I2, I3: {id} is {state}"
            );
        }
        self.app.finish().await;
    }
}

fn listen(app: &TestApp, published: &Published, queue: QueueSpec) {
    let (broker, stop, published) = (
        app.ctx.broker.clone(),
        app.ctx.shutdown.soft().clone(),
        published.clone(),
    );
    app.ctx.spawn("listener of the test", async move {
        amqp::consume(&broker, &stop, &queue, Settings::default(), published).await
    });
}
