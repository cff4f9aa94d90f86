//! The whole pipeline: booking worker and payment worker, each in a runtime that can crash, real
//! servers, the stand-in for Stripe, and a clock that can be advanced.

mod clock;
mod invariants;
mod node;

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::TimeDelta;
use domain::account::Role;
use domain::booking::Wish;
use domain::clock::Clock;
use domain::event::{Event, EventState, Section, Tier};
use domain::message::{CancelBooking, EventChanged, Message, PlaceHold, SaleChanged};
use domain::sale::SaleSettings;
use domain::token::{ACCESS_AUDIENCE, AccessClaims, ISSUER};
use domain::{AccountId, BookingId, Currency, EventId, Money, SectionId};
use payment_worker::Config;
use platform::amqp::{
    Delivery, Exchange, Handler, QueueSpec, Settings, Verdict, consume, dead_letters,
};
use platform::config::PlatformConfig;
use platform::testing::{TestApp, eventually};
use platform::topology;
use serde_json::Value;
use sqlx::postgres::types::PgInterval;
use sqlx::types::Uuid;
use stand_ins::stripe::{self, StandIn, WebhookFault};
use tokio_util::sync::CancellationToken;

pub(crate) use clock::JumpingClock;
use node::Node;

/// Longest wait for a condition.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
pub(crate) const EVENT: EventId = EventId(1);
/// Price of a ticket, in cents.
pub(crate) const PRICE: i64 = 4_500;
/// So long that no hold ends on a busy machine, and too short for its news to count as lost.
pub(crate) const HOLD_SECONDS: u32 = 170;
/// For calls that nothing delays but a busy machine.
pub(crate) const UNLIMITED: Duration = Duration::from_secs(60);
/// The name of the event.
pub(crate) const NAME: &str = "A night at the opera";
/// Time until the event.
const TO_EVENT: TimeDelta = TimeDelta::days(60);
/// An account that buys nothing.
pub(crate) const STAFF: i64 = 1_000_000;
/// A queue that nobody reads.
const REPLY_TO: &str = "nobody";
/// Time that a call to Stripe has between two steps of the clock.
const GRACE: Duration = Duration::from_millis(250);
/// Step of the clock while something is in flight.
const STEP: TimeDelta = TimeDelta::seconds(5);

/// Messages that a test consumed.
#[derive(Clone, Default)]
struct Taken(Arc<Mutex<Vec<Delivery>>>);

impl Handler for Taken {
    /// A copy of a message is dropped: the outbox publishes at least once.
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let mut taken = self.0.lock().unwrap();
        if taken
            .iter()
            .all(|known| known.message_id != delivery.message_id)
        {
            taken.push(delivery);
        }
        Verdict::Ack
    }
}

pub(crate) struct Pipeline {
    pub(crate) app: TestApp,
    pub(crate) clock: JumpingClock,
    pub(crate) stripe: StandIn,
    pub(crate) http: reqwest::Client,
    config: Config,
    bookings: Mutex<Option<Node>>,
    payments: Mutex<Option<Node>>,
    requested: Mutex<Vec<Uuid>>,
}

impl Pipeline {
    /// Opens the sale of one event with `seats` seats.
    pub(crate) async fn open(seats: u32) -> Self {
        Self::open_with(seats, |_| ()).await
    }

    pub(crate) async fn open_with(seats: u32, configure: impl FnOnce(&mut Config)) -> Self {
        let clock = JumpingClock::new();
        let app = TestApp::start_with(Arc::new(clock.clone()), |_| ())
            .await
            .with_patient_pool();
        topology::declare_all(&app.ctx.broker).await.unwrap();
        let stripe = StandIn::start(stripe::Config {
            clock: Arc::new(clock.clone()),
            ..stripe::Config::default()
        })
        .await
        .unwrap();
        let many = NonZeroU32::new(1_000).unwrap();
        let mut config = Config {
            stripe_secret_key: Some(stripe.secret_key().into()),
            stripe_webhook_secrets: vec![stripe.webhook_secret().into()],
            stripe_url: stripe.url().parse().unwrap(),
            stripe_timeout: Duration::from_secs(2),
            stripe_rate: many,
            stripe_endpoint_rate: many,
            reconcile_interval: Duration::from_millis(500),
            reconcile_after: Duration::from_secs(30),
            ..Config::default()
        };
        configure(&mut config);
        let pipeline = Self {
            app,
            clock,
            stripe,
            // Browsers have a timeout, too.
            http: reqwest::Client::builder()
                .timeout(config.stripe_timeout * 10)
                .build()
                .unwrap(),
            config,
            bookings: Mutex::default(),
            payments: Mutex::default(),
            requested: Mutex::default(),
        };
        pipeline.start_bookings(None).await;
        pipeline.start_payments(None).await;
        pipeline.put_on_sale(seats).await;
        pipeline
    }

    fn platform(&self, amqp_url: Option<&str>) -> PlatformConfig {
        let mut config = PlatformConfig::clone(&self.app.ctx.config);
        if let Some(url) = amqp_url {
            config.amqp_url = url.into();
        }
        config
    }

    /// Starts a booking worker, which connects to RabbitMQ by `amqp_url` if given.
    pub(crate) async fn start_bookings(&self, amqp_url: Option<&str>) {
        let config = booking_worker::Config { max_batch: 32 };
        let clock = Arc::new(self.clock.clone());
        let platform = self.platform(amqp_url);
        let node = Node::start(platform, clock, |ctx| booking_worker::start(ctx, config)).await;
        *self.bookings.lock().unwrap() = Some(node);
    }

    /// [`start_bookings`](Self::start_bookings) for a payment worker.
    pub(crate) async fn start_payments(&self, amqp_url: Option<&str>) {
        let config = self.config.clone();
        let clock = Arc::new(self.clock.clone());
        let platform = self.platform(amqp_url);
        let node = Node::start(platform, clock, |ctx| payment_worker::start(ctx, config)).await;
        self.stripe
            .set_webhook_url(node.url("/api/webhooks/stripe"));
        *self.payments.lock().unwrap() = Some(node);
    }

    /// Loses every webhook from now on.
    pub(crate) fn lose_webhooks(&self) {
        let faults = self.stripe.webhooks().faults();
        faults.sometimes(1.0, None::<String>, WebhookFault::Lost);
    }

    /// Crashes the payment worker, as by a power cut.
    pub(crate) async fn crash_payments(&self) {
        let node = self.payments.lock().unwrap().take();
        node.unwrap().crash().await;
    }

    /// Crashes the booking worker, as by a power cut.
    pub(crate) async fn crash_bookings(&self) {
        let node = self.bookings.lock().unwrap().take();
        node.unwrap().crash().await;
    }

    /// An address on the payment worker's public listener.
    pub(crate) fn public_url(&self, path: &str) -> String {
        self.payments.lock().unwrap().as_ref().unwrap().url(path)
    }

    /// An address on the booking worker's public listener.
    pub(crate) fn bookings_url(&self, path: &str) -> String {
        self.bookings.lock().unwrap().as_ref().unwrap().url(path)
    }

    /// An address on the payment worker's internal listener.
    pub(crate) fn internal_url(&self, path: &str) -> String {
        let payments = self.payments.lock().unwrap();
        format!("http://{}{path}", payments.as_ref().unwrap().internal)
    }

    /// Settings of the payment worker.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    async fn put_on_sale(&self, seats: u32) {
        self.write_event(EVENT).await;
        self.publish(&EventChanged {
            event: event(1, seats, EventState::Announced, self),
        })
        .await;
        self.publish(&SaleChanged { sale: sale(self) }).await;
        let ready = "select count(*) from booking.events join booking.sales using (event_id)";
        eventually(PATIENCE, async || self.count(ready).await == 1).await;
    }

    /// Inserts an event as box-office does.
    pub(crate) async fn write_event(&self, id: EventId) {
        let writing = sqlx::query(
            "insert into box_office.events (id, name, date, capacity, created_at, updated_at)
             overriding system value values ($1, $2, $3, 100, $4, $4)",
        );
        let now = self.clock.now();
        let writing = writing.bind(id.0).bind(NAME).bind(now + TO_EVENT).bind(now);
        writing.execute(&self.app.ctx.db).await.unwrap();
    }

    /// Publishes that the event is cancelled.
    pub(crate) async fn cancel_event(&self, seats: u32) {
        self.publish(&EventChanged {
            event: event(2, seats, EventState::Cancelled, self),
        })
        .await;
    }

    async fn publish<M: Message>(&self, message: &M) {
        let (broker, exchange) = (&self.app.ctx.broker, Exchange::for_name(M::NAME));
        broker
            .publish(exchange, M::NAME, message, Uuid::new_v4())
            .await
            .unwrap();
    }

    /// Consumes the message of a queue that no worker reads now, and returns its name. A sweep may
    /// have published it again, since the clock jumps.
    pub(crate) async fn discard(&self, queue: &QueueSpec) -> String {
        let taken = self.take(queue, 1).await;
        assert!(taken.iter().all(|again| *again == taken[0]), "{taken:?}");
        taken[0].0.clone()
    }

    /// Consumes `count` messages of a queue that no worker reads now; returns names and bodies.
    pub(crate) async fn taken(&self, queue: &QueueSpec, count: usize) -> Vec<(String, Value)> {
        let messages = self.take(queue, count).await;
        assert_eq!(messages.len(), count, "{messages:?}");
        messages
    }

    /// Consumes at least `count` messages.
    async fn take(&self, queue: &QueueSpec, count: usize) -> Vec<(String, Value)> {
        let (messages, stop) = (Taken::default(), CancellationToken::new());
        let in_order = Settings {
            prefetch: 1,
            concurrency: 1,
            ..Settings::default()
        };
        let broker = &self.app.ctx.broker;
        let taking = consume(broker, &stop, queue, in_order, messages.clone());
        let until_enough_came = async {
            eventually(PATIENCE, async || messages.0.lock().unwrap().len() >= count).await;
            stop.cancel();
        };
        let (taken, ()) = tokio::join!(taking, until_enough_came);
        taken.unwrap();
        let messages = messages.0.lock().unwrap();
        let read = |taken: &Delivery| {
            let body = serde_json::from_slice(&taken.body).unwrap();
            (taken.name.clone(), body)
        };
        messages.iter().map(read).collect()
    }

    async fn command<M: Message>(&self, command: &M) {
        let queue = topology::booking_requests_of(EVENT);
        let broker = &self.app.ctx.broker;
        broker
            .publish(Exchange::Commands, &queue, command, Uuid::new_v4())
            .await
            .unwrap();
    }

    // The buyer.

    /// Requests tickets, without waiting for the outcome.
    pub(crate) async fn request(&self, account: i64, tickets: u32) -> BookingId {
        let now = self.clock.now();
        let booking_id = BookingId::new(now);
        self.requested.lock().unwrap().push(booking_id.0);
        let wish = Wish::best(tickets);
        self.command(&PlaceHold {
            booking_id,
            event_id: EVENT,
            account_id: AccountId(account),
            wish,
            accepted_at: now,
            reply_to: REPLY_TO.to_owned(),
            // The clock jumps while services are down, and no buyer has left.
            asked_at: Some(now + TimeDelta::days(1)),
            asked_by: None,
        })
        .await;
        booking_id
    }

    /// Requests a ticket, and waits until it can be paid.
    pub(crate) async fn hold(&self, account: i64) -> BookingId {
        let id = self.request(account, 1).await;
        self.wait_for_intent(id).await;
        id
    }

    /// Sells a ticket: confirmed and captured.
    pub(crate) async fn sell(&self, account: i64) -> BookingId {
        let id = self.hold(account).await;
        assert!(self.pay(id, "pm_card_visa").await);
        self.wait_for_payment(id, "captured").await;
        id
    }

    /// Cancels a booking on behalf of the account.
    pub(crate) async fn cancel(&self, booking_id: BookingId, account: i64) {
        self.command(&CancelBooking {
            booking_id,
            event_id: EVENT,
            asked_by: AccountId(account),
            reply_to: REPLY_TO.to_owned(),
        })
        .await;
    }

    /// Signs an access token of an account.
    pub(crate) fn access_token(&self, account: i64, roles: Vec<Role>) -> String {
        let now = self.clock.now();
        self.app.ctx.keys.sign_access(&AccessClaims {
            iss: ISSUER.to_owned(),
            aud: ACCESS_AUDIENCE.to_owned(),
            sub: AccountId(account).to_string(),
            roles,
            iat: now.timestamp(),
            nbf: now.timestamp(),
            exp: (now + TimeDelta::hours(1)).timestamp(),
        })
    }

    /// Confirms the PaymentIntent as a browser does; returns whether Stripe accepted the card.
    pub(crate) async fn pay(&self, id: BookingId, card: &str) -> bool {
        self.confirm(id, &[("payment_method", card)])
            .await
            .is_some()
    }

    /// [`pay`](Self::pay) with the card that was chosen before; returns Stripe's answer.
    pub(crate) async fn confirm(&self, id: BookingId, card: &[(&str, &str)]) -> Option<Value> {
        let query = "select intent_id, client_secret from payment.payments where booking_id = $1";
        let (intent, secret): (Option<String>, Option<String>) = sqlx::query_as(query)
            .bind(id.0)
            .fetch_one(&self.app.ctx.db)
            .await
            .unwrap();
        let (intent, secret) = (intent?, secret?);
        let url = format!("{}/v1/payment_intents/{intent}/confirm", self.stripe.url());
        let form = [card, &[("client_secret", secret.as_str())]].concat();
        let key = self.stripe.publishable_key();
        let sending = self.http.post(url).bearer_auth(key).form(&form).send();
        let answer = sending.await.ok()?.error_for_status().ok()?;
        answer.json().await.ok()
    }

    /// Passes 3-D Secure.
    pub(crate) async fn authenticate(&self, id: BookingId) -> bool {
        let Some(intent) = self.intent(id).await else {
            return false;
        };
        let url = format!(
            "{}/test/payment_intents/{intent}/authenticate",
            self.stripe.url()
        );
        let sending = self.http.post(url).form(&[("outcome", "success")]).send();
        sending
            .await
            .is_ok_and(|answer| answer.status().is_success())
    }

    // Observations.

    pub(crate) async fn count(&self, query: &'static str) -> i64 {
        let counting = sqlx::query_scalar(query).fetch_one(&self.app.ctx.db);
        counting.await.unwrap()
    }

    async fn text(&self, query: &'static str, id: BookingId) -> Option<String> {
        let reading = sqlx::query_scalar::<_, Option<String>>(query)
            .bind(id.0)
            .fetch_optional(&self.app.ctx.db);
        reading.await.unwrap().flatten()
    }

    pub(crate) async fn intent(&self, id: BookingId) -> Option<String> {
        self.text(
            "select intent_id from payment.payments where booking_id = $1",
            id,
        )
        .await
    }

    pub(crate) async fn wait_for_intent(&self, id: BookingId) {
        eventually(PATIENCE, async || self.intent(id).await.is_some()).await;
    }

    pub(crate) async fn payment(&self, id: BookingId) -> String {
        let query = "select state from payment.payments where booking_id = $1";
        self.text(query, id).await.unwrap_or_default()
    }

    pub(crate) async fn wait_for_payment(&self, id: BookingId, state: &str) {
        eventually(PATIENCE, async || self.payment(id).await == state).await;
    }

    pub(crate) async fn booking(&self, id: BookingId) -> String {
        let query = "select state from booking.bookings where id = $1";
        self.text(query, id).await.unwrap_or_default()
    }

    pub(crate) async fn wait_for_booking(&self, id: BookingId, state: &str) {
        eventually(PATIENCE, async || self.booking(id).await == state).await;
    }

    // The end.

    /// Waits until nothing is in flight: no hold, message, call to Stripe or webhook. The clock
    /// advances meanwhile, so holds and backoffs expire.
    pub(crate) async fn come_to_rest(&self) {
        let mut quiet = 0;
        eventually(PATIENCE, async || {
            quiet = if self.is_quiet().await { quiet + 1 } else { 0 };
            if quiet == 0 {
                self.let_time_pass().await;
            }
            quiet == 5
        })
        .await;
    }

    /// Waits for a condition while the clock advances.
    pub(crate) async fn in_time(&self, mut condition: impl AsyncFnMut() -> bool) {
        eventually(PATIENCE, async || {
            let holds = condition().await;
            if !holds {
                self.let_time_pass().await;
            }
            holds
        })
        .await;
    }

    /// Advances the clock, and the leases of the outbox. A call to Stripe that is being made may
    /// end first: on a busy machine its lease would expire before it is answered, each time.
    async fn let_time_pass(&self) {
        let answered = eventually(PATIENCE, async || !self.is_calling().await);
        // A worker that crashed leaves its lease.
        let _ = tokio::time::timeout(GRACE, answered).await;
        self.clock.jump(STEP);
        self.let_outbox_leases_pass().await;
    }

    /// Advances the leases of the outbox, which run by the database's own clock.
    pub(crate) async fn let_outbox_leases_pass(&self) {
        sqlx::query("update platform.outbox set available_at = available_at - $1")
            .bind(PgInterval::try_from(STEP).unwrap())
            .execute(&self.app.ctx.db)
            .await
            .unwrap();
    }

    /// Returns whether a worker has the lease of an operation.
    async fn is_calling(&self) -> bool {
        let leased = "select exists (select from payment.operations
            where state = 'pending' and leased_until > $1)";
        let now = domain::clock::Clock::now(&self.clock);
        let leased = sqlx::query_scalar(leased).bind(now);
        leased.fetch_one(&self.app.ctx.db).await.unwrap()
    }

    async fn is_quiet(&self) -> bool {
        const UNDER_WAY: &str = "select
            (select count(*) from booking.bookings
             where state = 'held' or (state = 'confirmed' and captured_at is null))
            + (select count(*) from payment.payments
               where state in ('pending', 'requires_action', 'authorised'))
            + (select count(*) from booking.cancellations join payment.payments p using (booking_id)
               where p.state = 'captured' and p.kept_on_cancel_minor is null
                 and p.refunded_minor + p.kept_minor < p.captured_minor)
            + (select count(*) from payment.operations where state = 'pending')
            + (select count(*) from payment.refunds where state = 'pending')
            + (select count(*) from payment.webhook_inbox where processed_at is null)
            + (select count(*) from platform.outbox)";
        let requested = self.requested.lock().unwrap().clone();
        let decided: i64 =
            sqlx::query_scalar("select count(*) from booking.bookings where id = any($1)")
                .bind(&requested)
                .fetch_one(&self.app.ctx.db)
                .await
                .unwrap();
        self.stripe.webhooks().deliveries().pending == 0
            && !invariants::has_pending_refund(self.stripe.ledger())
            && usize::try_from(decided).unwrap() == requested.len()
            && self.count(UNDER_WAY).await == 0
    }

    /// Asserts, at rest, every promise about money and tickets.
    pub(crate) async fn assert_kept(&self) {
        self.come_to_rest().await;
        let requested = self.requested.lock().unwrap().clone();
        let db = &self.app.ctx.db;
        let broken = invariants::broken(db, self.stripe.ledger(), &requested).await;
        assert!(broken.is_empty(), "{broken:#?}");
    }

    /// Cancels what is left as staff, so that all seats are free again.
    pub(crate) async fn free_all(&self) {
        let query = "select id from booking.bookings where state = 'confirmed'";
        let confirmed = sqlx::query_scalar(query).fetch_all(&self.app.ctx.db);
        for id in confirmed.await.unwrap() {
            self.cancel(BookingId(id), STAFF).await;
        }
        let taken = "select count(*) from booking.seats where state <> 'available'";
        eventually(PATIENCE, async || self.count(taken).await == 0).await;
    }

    /// [`assert_kept`](Self::assert_kept), then stops everything.
    pub(crate) async fn close(self) {
        self.assert_kept().await;
        self.leave().await;
    }

    /// Stops everything.
    pub(crate) async fn leave(self) {
        for queue in [topology::payment_bookings(), topology::booking_payments()] {
            let broker = &self.app.ctx.broker;
            let dead = dead_letters::count(broker, &queue.name).await.unwrap();
            assert_eq!(dead, 0, "{} has dead letters", queue.name);
        }
        for node in [&self.payments, &self.bookings] {
            let node = node.lock().unwrap().take();
            node.unwrap().stop().await;
        }
        self.app.finish().await;
    }
}

fn event(version: i64, seats: u32, state: EventState, pipeline: &Pipeline) -> Event {
    let tier = Tier {
        name: "Standing".to_owned(),
        price: Money::new(PRICE, Currency::EUR),
    };
    let section = Section {
        id: SectionId(1),
        name: "Floor".to_owned(),
        numbered: false,
        capacity: seats,
        rows: None,
        seats_per_row: None,
        tier,
    };
    Event {
        id: EVENT,
        version,
        name: NAME.to_owned(),
        date: pipeline.clock.now() + TO_EVENT,
        capacity: seats,
        description: String::new(),
        category: String::new(),
        venue: String::new(),
        city: String::new(),
        country: String::new(),
        time_zone: "UTC".to_owned(),
        state,
        max_tickets_per_account: 1_000,
        reminder_before_seconds: None,
        ticket_transfer: true,
        sections: vec![section],
    }
}

fn sale(pipeline: &Pipeline) -> SaleSettings {
    SaleSettings {
        hold_seconds: HOLD_SECONDS,
        max_tickets_per_account: 1_000,
        ..domain::testing::sale(EVENT, pipeline.clock.now())
    }
}
