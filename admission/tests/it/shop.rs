//! Harness: admission over HTTP, with a scripted booking worker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::TimeDelta;
use domain::account::Role;
use domain::booking::{BookedSeat, BookingFacts, CancelRefusal, RejectReason};
use domain::line::{Move, Run};
use domain::message::{
    BookingOutcome, BookingOutcomes, CancelBooking, Message, Outcome, PlaceHold, SaleChanged,
};
use domain::queue::Snapshot;
use domain::sale::SaleSettings;
use domain::token::{
    ACCESS_AUDIENCE, AccessClaims, ISSUER, PassClaims, QueueClaims, VisitorClaims, sale_audience,
};
use domain::{AccountId, BookingId, Currency, EventId, Money, Number, Place, SeatId};
use platform::amqp::{self, Delivery, Exchange, Handler, QueueSpec, Settings, Verdict};
use platform::config::PlatformConfig;
use platform::service::{Context, Running};
use platform::testing::{TestApp, eventually, line};
use platform::topology;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::line::{EVENT, sale};

pub(crate) const BUYER: AccountId = AccountId(7);
pub(crate) const OTHER: AccountId = AccountId(8);
pub(crate) const STAFF: AccountId = AccountId(9);

const SOON: Duration = Duration::from_secs(30);
/// Longest wait for an outcome that comes, and for one that does not.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);
pub(crate) const A_MOMENT: Duration = Duration::from_millis(500);
/// Longest time of a request, above the wait for an outcome.
const REQUEST_SECONDS: u64 = 60;

pub(crate) struct Shop {
    pub(crate) app: TestApp,
    pub(crate) base: String,
    client: Client,
    /// The last published snapshot of each sale.
    snapshots: Mutex<HashMap<EventId, Snapshot>>,
}

/// Another node of the same installation.
pub(crate) struct Node {
    pub(crate) base: String,
    running: Running,
}

impl Node {
    pub(crate) async fn stop(self) {
        self.running.stop().await.unwrap();
    }
}

fn config(outcome_wait: Duration) -> admission::Config {
    admission::Config {
        stripe_publishable_key: Some("pk_test_1".to_owned()),
        outcome_wait,
        ..admission::Config::default()
    }
}

/// Starts admission; returns its base URL.
pub(crate) async fn launch(ctx: &Context, outcome_wait: Duration) -> (String, Running) {
    let config = config(outcome_wait);
    let routes = admission::start(ctx.clone(), config).await.unwrap();
    let running = platform::testing::serve_consuming(ctx, routes).await;
    (format!("http://{}", running.public_addr), running)
}

impl Shop {
    /// An installation with one open sale, [`EVENT`], that waits for every outcome.
    pub(crate) async fn open() -> Self {
        Self::waiting(PATIENCE).await
    }

    /// As [`open`](Self::open), for outcomes that don't come.
    pub(crate) async fn impatient() -> Self {
        Self::waiting(A_MOMENT).await
    }

    async fn waiting(outcome_wait: Duration) -> Self {
        let app = TestApp::start_with(domain::clock::SystemClock::shared(), |config| {
            config.limits_scale = 100.0;
            config.request_timeout = Duration::from_secs(REQUEST_SECONDS);
        })
        .await;
        for queue in [
            topology::admission_sales(),
            topology::admission_revocations(),
            topology::admission_bookings(),
        ] {
            app.ctx.broker.declare_patiently(&queue).await;
        }
        // The test holds the leader row, so the nodes' own release loops stand by.
        let lead = "insert into admission.leader values (true, 'the test', 1, 'infinity')";
        sqlx::query(lead).execute(&app.ctx.db).await.unwrap();
        let (base, _) = launch(&app.ctx, outcome_wait).await;
        let shop = Self {
            base,
            client: Client::new(),
            snapshots: Mutex::default(),
            app,
        };
        shop.add_sale(EVENT, |_| ()).await;
        shop
    }

    pub(crate) async fn another_node(&self) -> Node {
        self.another_node_with(|_| ()).await
    }

    /// Starts another node with modified settings.
    pub(crate) async fn another_node_with(
        &self,
        configure: impl FnOnce(&mut PlatformConfig),
    ) -> Node {
        let ctx = self.app.another_node_with(configure).await;
        let (base, running) = launch(&ctx, PATIENCE).await;
        Node { base, running }
    }

    /// Publishes a sale, as box-office does; returns once it takes effect.
    pub(crate) async fn add_sale(&self, event_id: EventId, change: impl FnOnce(&mut SaleSettings)) {
        let opens_at = self.app.ctx.clock.now() - TimeDelta::seconds(60);
        let mut sale = SaleSettings {
            event_id,
            opens_at,
            ..sale()
        };
        change(&mut sale);
        let message = SaleChanged { sale };
        let broker = &self.app.ctx.broker;
        let published = broker
            .publish(
                Exchange::Events,
                SaleChanged::NAME,
                &message,
                Uuid::new_v4(),
            )
            .await;
        published.unwrap();
        self.publish_step(event_id, |_, _| ()).await;
        let token = self.queue_token_of(event_id, BUYER, i64::MAX, 600);
        eventually(SOON, async || {
            self.claim(event_id, BUYER, Some(&token)).await.status() != 404
        })
        .await;
    }

    /// Publishes a step, as the release leader does.
    async fn publish_step(&self, event_id: EventId, step: impl FnOnce(&mut Snapshot, &mut Move)) {
        let now = self.app.ctx.clock.now();
        let (snapshot, moved) = {
            let mut snapshots = self.snapshots.lock().unwrap();
            let snapshot = snapshots.entry(event_id).or_insert_with(|| Snapshot {
                seq: 0,
                ..line::snapshot(event_id, now)
            });
            snapshot.seq += 1;
            let mut moved = Move::empty(snapshot.seq, now);
            step(snapshot, &mut moved);
            (snapshot.clone(), moved)
        };
        line::publish(&self.app.ctx.db, &snapshot, &moved).await;
        let lines = &self.app.ctx.lines;
        eventually(SOON, async || {
            lines
                .view(event_id)
                .await
                .is_ok_and(|view| view.snapshot.seq >= snapshot.seq)
        })
        .await;
    }

    /// Marks `place` as having missed its claim window.
    pub(crate) async fn miss(&self, place: i64) {
        self.publish_step(EVENT, |_, moved| moved.missed.push(Place(place)))
            .await;
    }

    /// Marks the holder of `number` as having left.
    pub(crate) async fn leave(&self, number: i64) {
        self.publish_step(EVENT, |_, moved| moved.left.push(Number(number)))
            .await;
    }

    /// Returns the number of running passes of [`EVENT`].
    pub(crate) async fn shopping(&self) -> i32 {
        sqlx::query_scalar("select shopping from admission.gates where event_id = $1")
            .bind(EVENT.0)
            .fetch_one(&self.app.ctx.db)
            .await
            .unwrap()
    }

    /// Joins and calls an account; returns its queue token.
    pub(crate) async fn join(&self, account: AccountId) -> String {
        let number = self.call(EVENT).await;
        self.queue_token(account, number.0, 600)
    }

    /// Joins and calls the next place.
    pub(crate) async fn call(&self, event_id: EventId) -> Place {
        let mut number = Place(0);
        self.publish_step(event_id, |snapshot, moved| {
            number = Place(snapshot.joined.0 + 1);
            snapshot.joined = number;
            snapshot.cursor = number;
            moved.called.push(Run {
                first: number,
                last: number,
            });
        })
        .await;
        number
    }

    /// Joins and calls the next `people` places of [`EVENT`] at once; returns the first.
    pub(crate) async fn call_many(&self, people: i64) -> Place {
        let mut first = Place(0);
        self.publish_step(EVENT, |snapshot, moved| {
            first = Place(snapshot.joined.0 + 1);
            let last = Place(snapshot.joined.0 + people);
            (snapshot.joined, snapshot.cursor) = (last, last);
            moved.called.push(Run { first, last });
        })
        .await;
        first
    }

    pub(crate) fn queue_token(&self, account: AccountId, number: i64, lasts: i64) -> String {
        self.queue_token_of(EVENT, account, number, lasts)
    }

    pub(crate) fn queue_token_of(
        &self,
        event_id: EventId,
        account: AccountId,
        number: i64,
        lasts: i64,
    ) -> String {
        let now = self.app.ctx.clock.now().timestamp();
        self.app.ctx.keys.sign_queue(
            &QueueClaims {
                iss: ISSUER.to_owned(),
                aud: sale_audience(event_id),
                sub: account.to_string(),
                number: Number(number),
                iat: now,
                nbf: now - 100,
                exp: now + lasts,
            },
            "",
        )
    }

    pub(crate) fn pass(&self, event_id: EventId, account: AccountId, lasts: i64) -> String {
        let now = self.app.ctx.clock.now().timestamp();
        self.app.ctx.keys.sign_pass(&PassClaims {
            iss: ISSUER.to_owned(),
            aud: sale_audience(event_id),
            sub: account.to_string(),
            jti: Uuid::new_v4().to_string(),
            place: Place(1),
            iat: now,
            nbf: now - 100,
            exp: now + lasts,
        })
    }

    /// Returns an account's access token, or, for a negative id, a visitor token.
    fn access(&self, account: AccountId) -> String {
        let now = self.app.ctx.clock.now().timestamp();
        if account.0 < 0 {
            return self.app.ctx.keys.sign_visitor(&VisitorClaims {
                iss: ISSUER.to_owned(),
                aud: sale_audience(EVENT),
                sub: account.to_string(),
                iat: now,
                nbf: now,
                exp: now + 600,
            });
        }
        let role = if account == STAFF {
            Role::Operator
        } else {
            Role::Customer
        };
        self.app.ctx.keys.sign_access(&AccessClaims {
            iss: ISSUER.to_owned(),
            aud: ACCESS_AUDIENCE.to_owned(),
            sub: account.to_string(),
            roles: vec![role],
            iat: now,
            nbf: now,
            exp: now + 600,
        })
    }

    pub(crate) async fn get(&self, path: &str, account: Option<AccountId>) -> Response {
        let mut request = self.client.get(format!("{}{path}", self.base));
        if let Some(account) = account {
            request = request.bearer_auth(self.access(account));
        }
        request.send().await.unwrap()
    }

    pub(crate) async fn delete(&self, path: &str, account: AccountId, pass: &str) -> Response {
        let request = self.client.delete(format!("{}{path}", self.base));
        let request = request.bearer_auth(self.access(account));
        request.header("onsale-pass", pass).send().await.unwrap()
    }

    pub(crate) async fn claim(
        &self,
        event_id: EventId,
        account: AccountId,
        token: Option<&str>,
    ) -> Response {
        self.claim_at(&self.base, event_id, account, token).await
    }

    pub(crate) async fn claim_at(
        &self,
        base: &str,
        event_id: EventId,
        account: AccountId,
        token: Option<&str>,
    ) -> Response {
        let url = format!("{base}/api/events/{event_id}/pass");
        let mut request = self.client.post(url).bearer_auth(self.access(account));
        if let Some(token) = token {
            request = request.header("onsale-queue-token", token);
        }
        request.send().await.unwrap()
    }

    /// Sends a booking request with any JSON body.
    pub(crate) async fn post_booking(
        &self,
        base: &str,
        account: AccountId,
        pass: Option<&str>,
        key: Option<&str>,
        body: &Value,
    ) -> Response {
        let url = format!("{base}/api/bookings");
        let mut request = self
            .client
            .post(url)
            .bearer_auth(self.access(account))
            .json(body);
        if let Some(pass) = pass {
            request = request.header("onsale-pass", pass);
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        request.send().await.unwrap()
    }

    /// Sends a raw body, which need not be JSON.
    pub(crate) async fn post_text(
        &self,
        path: &str,
        account: AccountId,
        pass: &str,
        body: String,
    ) -> Response {
        let request = self.client.post(format!("{}{path}", self.base));
        let request = request.bearer_auth(self.access(account)).body(body);
        let json = ("content-type", "application/json");
        let request = request.header(json.0, json.1).header("onsale-pass", pass);
        request.send().await.unwrap()
    }

    /// Sends a cancellation (`PUT`) or a claim (`POST`), depending on the path.
    pub(crate) async fn put_or_post(&self, path: &str, account: AccountId) -> Response {
        let url = format!("{}{path}", self.base);
        let request = if path.ends_with("/cancel") {
            self.client.put(url)
        } else {
            self.client.post(url)
        };
        request
            .bearer_auth(self.access(account))
            .send()
            .await
            .unwrap()
    }

    pub(crate) async fn book_at(
        &self,
        base: &str,
        account: AccountId,
        pass: Option<&str>,
        tickets: u32,
        key: Option<&str>,
    ) -> Response {
        let body = json!({"event_id": EVENT, "user_id": account, "tickets": tickets});
        self.post_booking(base, account, pass, key, &body).await
    }

    pub(crate) async fn cancel(&self, account: AccountId, id: BookingId) -> Response {
        self.put_or_post(&format!("/api/bookings/{id}/cancel"), account)
            .await
    }

    /// [`cancel`](Self::cancel) with an `Idempotency-Key`.
    pub(crate) async fn cancel_with(
        &self,
        account: AccountId,
        id: BookingId,
        key: &str,
    ) -> Response {
        let url = format!("{}/api/bookings/{id}/cancel", self.base);
        let request = self.client.put(url).bearer_auth(self.access(account));
        let request = request.header("idempotency-key", key);
        request.send().await.unwrap()
    }

    /// Starts a booking worker that answers holds by `decide` and cancellations with `cancel`.
    pub(crate) async fn worker(
        &self,
        decide: impl Fn(&PlaceHold) -> Option<Outcome> + Send + Sync + 'static,
        cancel: Option<Outcome>,
    ) -> Arc<Mutex<Vec<PlaceHold>>> {
        let partition = u16::try_from(EVENT.0).unwrap() % topology::BOOKING_PARTITIONS;
        self.worker_on(topology::booking_requests(partition), decide, cancel)
            .await
    }

    /// As [`worker`](Self::worker), on another queue.
    pub(crate) async fn worker_on(
        &self,
        queue: QueueSpec,
        decide: impl Fn(&PlaceHold) -> Option<Outcome> + Send + Sync + 'static,
        cancel: Option<Outcome>,
    ) -> Arc<Mutex<Vec<PlaceHold>>> {
        let ctx = self.app.ctx.clone();
        ctx.broker.declare_patiently(&queue).await;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let worker = Worker {
            ctx: ctx.clone(),
            decide: Box::new(decide),
            cancel,
            seen: seen.clone(),
        };
        self.app.ctx.spawn("worker", async move {
            let (broker, stop) = (ctx.broker.clone(), ctx.shutdown.soft().clone());
            amqp::consume(&broker, &stop, &queue, Settings::default(), worker).await
        });
        seen
    }
}

/// Reason sent with refused cancellations.
pub(crate) const REFUSED_BECAUSE: CancelRefusal = CancelRefusal::EventBegun;

/// The worker's script; `None` sends no outcome.
type Decide = dyn Fn(&PlaceHold) -> Option<Outcome> + Send + Sync;

struct Worker {
    ctx: Context,
    decide: Box<Decide>,
    cancel: Option<Outcome>,
    seen: Arc<Mutex<Vec<PlaceHold>>>,
}

impl Handler for Worker {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let (booking_id, reply_to, outcome) = if delivery.name == CancelBooking::NAME {
            let cancel: CancelBooking = delivery.parse().unwrap();
            (cancel.booking_id, cancel.reply_to, self.cancel.clone())
        } else {
            let hold: PlaceHold = delivery.parse().unwrap();
            let outcome = (self.decide)(&hold);
            self.seen.lock().unwrap().push(hold.clone());
            (hold.booking_id, hold.reply_to, outcome)
        };
        if let Some(outcome) = outcome {
            let message = BookingOutcomes {
                outcomes: vec![BookingOutcome {
                    booking_id,
                    why: matches!(outcome, Outcome::Refused(_)).then_some(REFUSED_BECAUSE),
                    outcome,
                }],
            };
            let id = Uuid::new_v4();
            self.ctx
                .broker
                .publish(Exchange::Outcomes, &reply_to, &message, id)
                .await
                .unwrap();
        }
        Verdict::Ack
    }
}

/// Holds one seat.
pub(crate) fn held(hold: &PlaceHold) -> Option<Outcome> {
    Some(Outcome::Held(facts(hold)))
}

fn facts(hold: &PlaceHold) -> BookingFacts {
    BookingFacts {
        booking_id: hold.booking_id,
        event_id: hold.event_id,
        account_id: hold.account_id,
        seats: vec![BookedSeat {
            id: SeatId(311),
            section: "Stalls".to_owned(),
            row: Some("C".to_owned()),
            number: Some(14),
        }],
        total: Money::new(4_500, Currency::EUR),
        hold_until: hold.accepted_at + TimeDelta::seconds(600),
        created_at: hold.accepted_at,
    }
}

/// Confirms one seat, as for a free event.
pub(crate) fn confirmed(hold: &PlaceHold) -> Option<Outcome> {
    Some(Outcome::Confirmed(facts(hold)))
}

pub(crate) fn sold_out(_: &PlaceHold) -> Option<Outcome> {
    Some(Outcome::Rejected(RejectReason::SoldOut))
}

/// Returns the last path segment of a problem's type.
pub(crate) async fn problem(response: Response) -> String {
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    let body: Value = response.json().await.unwrap();
    body["type"]
        .as_str()
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap()
        .to_owned()
}

/// Returns the token with one letter of its claims changed.
pub(crate) fn altered(token: &str) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let last = if parts[1].pop() == Some('A') {
        'B'
    } else {
        'A'
    };
    parts[1].push(last);
    parts.join(".")
}

/// Returns the token with `alg: none` and without a signature.
pub(crate) fn unsigned(token: &str) -> String {
    // {"alg":"none","typ":"queue+jwt"}
    let header = "eyJhbGciOiJub25lIiwidHlwIjoicXVldWUrand0In0";
    format!("{header}.{}.", token.split('.').nth(1).unwrap())
}
