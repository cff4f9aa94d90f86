//! Harness: a waiting room whose release leader is the test.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::clock::{Clock as _, ManualClock, SharedClock, SystemClock};
use domain::line::{Move, Run};
use domain::queue::Snapshot;
use domain::token::{
    ACCESS_AUDIENCE, AccessClaims, ISSUER, QueueClaims, VisitorClaims, sale_audience,
};
use domain::{AccountId, EventId, Number, Place, account::Role};
use platform::config::PlatformConfig;
use platform::testing::{TestApp, eventually, line};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;

pub(crate) const EVENT: EventId = EventId(1);
pub(crate) const BUYER: AccountId = AccountId(7);
pub(crate) const OTHER: AccountId = AccountId(8);
/// Lifts every rate limit.
const NO_LIMITS: f64 = 1e6;
const SOON: Duration = Duration::from_secs(30);

/// Settings with which no join does without the shared limits because the machine is busy.
pub(crate) fn config() -> waiting_room::Config {
    waiting_room::Config {
        shared_limits_timeout: SOON,
        ..waiting_room::Config::default()
    }
}

pub(crate) struct Hall {
    pub(crate) app: TestApp,
    pub(crate) client: Client,
    pub(crate) base: String,
    snapshot: Snapshot,
}

impl Hall {
    /// An installation with one open sale that nobody has joined.
    pub(crate) async fn open() -> Self {
        Self::with_limits(NO_LIMITS).await
    }

    pub(crate) async fn with_limits(scale: f64) -> Self {
        Self::with(|config| config.limits_scale = scale).await
    }

    pub(crate) async fn with(configure: impl FnOnce(&mut PlatformConfig)) -> Self {
        Self::at(SystemClock::shared(), configure).await
    }

    /// A hall with the usual limits, whose time passes only when the test says so: no limit has
    /// room again because the machine is slow.
    pub(crate) async fn timeless() -> (Self, ManualClock) {
        let clock = ManualClock::at(SystemClock.now());
        let hall = Self::at(std::sync::Arc::new(clock.clone()), |config| {
            config.limits_scale = 1.0;
        });
        (hall.await, clock)
    }

    async fn at(clock: SharedClock, configure: impl FnOnce(&mut PlatformConfig)) -> Self {
        let app = TestApp::start_with(clock, |config| {
            config.limits_scale = NO_LIMITS;
            // A busy machine takes long to answer a crowd.
            config.request_timeout = Duration::from_secs(60);
            config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
            configure(config);
        })
        .await;
        let routes = waiting_room::start(app.ctx.clone(), config())
            .await
            .unwrap();
        let base = format!("http://{}", app.serve(routes).await.public_addr);
        let snapshot = line::snapshot(EVENT, app.ctx.clock.now());
        let hall = Self {
            app,
            client: Client::new(),
            base,
            snapshot,
        };
        hall.write(&Move::empty(1, hall.snapshot.at)).await;
        hall
    }

    /// Starts another node; returns its base URL.
    pub(crate) async fn another_node(&self) -> String {
        self.node_with(config()).await
    }

    /// Serves on `ctx`; returns its base URL.
    pub(crate) async fn node_of(&self, ctx: &platform::service::Context) -> String {
        let routes = waiting_room::start(ctx.clone(), config()).await.unwrap();
        let running = platform::service::serve(ctx, routes).await.unwrap();
        format!("http://{}", running.public_addr)
    }

    /// Starts another node with its own settings; returns its base URL.
    pub(crate) async fn node_with(&self, config: waiting_room::Config) -> String {
        let ctx = self.app.another_node().await;
        let routes = waiting_room::start(ctx.clone(), config).await.unwrap();
        let running = platform::service::serve(&ctx, routes).await.unwrap();
        format!("http://{}", running.public_addr)
    }

    /// Publishes the next snapshot, as the release leader does.
    pub(crate) async fn publish(&mut self, change: impl FnOnce(&mut Snapshot)) {
        self.next(|snapshot, _| change(snapshot)).await;
    }

    /// Calls places, as the release leader does.
    pub(crate) async fn call(&mut self, first: i64, last: i64) {
        self.next(|snapshot, moved| {
            snapshot.cursor = Place(last);
            moved.called = vec![Run {
                first: Place(first),
                last: Place(last),
            }];
        })
        .await;
    }

    /// Publishes the next snapshot and its move, as the release leader does.
    pub(crate) async fn next(&mut self, change: impl FnOnce(&mut Snapshot, &mut Move)) {
        self.snapshot.seq += 1;
        let mut moved = Move::empty(self.snapshot.seq, self.app.ctx.clock.now());
        change(&mut self.snapshot, &mut moved);
        self.write(&moved).await;
    }

    async fn write(&self, moved: &Move) {
        line::publish(&self.app.ctx.db, &self.snapshot, moved).await;
        let seq = self.snapshot.seq;
        eventually(SOON, async || self.seq().await == seq).await;
    }

    async fn seq(&self) -> i64 {
        let body: Value = self.get("/api/events/1/queue").await.json().await.unwrap();
        body["seq"].as_i64().unwrap_or_default()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    pub(crate) fn signed_in(&self, request: RequestBuilder, account: AccountId) -> RequestBuilder {
        self.signed_in_at(self.app.ctx.clock.now(), request, account)
    }

    /// As [`signed_in`](Self::signed_in), with a token that was issued at `now`.
    pub(crate) fn signed_in_at(
        &self,
        now: DateTime<Utc>,
        request: RequestBuilder,
        account: AccountId,
    ) -> RequestBuilder {
        let now = now.timestamp();
        request.bearer_auth(self.app.ctx.keys.sign_access(&AccessClaims {
            iss: ISSUER.to_owned(),
            aud: ACCESS_AUDIENCE.to_owned(),
            sub: account.to_string(),
            roles: vec![Role::Customer],
            iat: now,
            nbf: now,
            exp: now + 600,
        }))
    }

    pub(crate) async fn join(&self, account: AccountId) -> Response {
        let request = self.client.post(self.url("/api/events/1/queue"));
        self.signed_in(request, account).send().await.unwrap()
    }

    /// Joins; returns the queue token and the number.
    pub(crate) async fn number(&self, account: AccountId) -> (String, i64) {
        let body: Value = self.join(account).await.json().await.unwrap();
        (
            body["queue_token"].as_str().unwrap().to_owned(),
            body["number"].as_i64().unwrap(),
        )
    }

    pub(crate) fn token(&self, event_id: EventId, number: i64, lasts: i64) -> String {
        self.token_at(self.app.ctx.clock.now(), event_id, number, lasts)
    }

    /// A queue token that was issued at `now`.
    pub(crate) fn token_at(
        &self,
        now: DateTime<Utc>,
        event_id: EventId,
        number: i64,
        lasts: i64,
    ) -> String {
        let now = now.timestamp();
        self.app.ctx.keys.sign_queue(
            &QueueClaims {
                iss: ISSUER.to_owned(),
                aud: sale_audience(event_id),
                sub: BUYER.to_string(),
                number: Number(number),
                iat: now,
                nbf: now - 100,
                exp: now + lasts,
            },
            "",
        )
    }

    pub(crate) fn visitor_token(&self, event_id: EventId) -> String {
        let now = self.app.ctx.clock.now().timestamp();
        self.app.ctx.keys.sign_visitor(&VisitorClaims {
            iss: ISSUER.to_owned(),
            aud: sale_audience(event_id),
            sub: AccountId::visitor(5).to_string(),
            iat: now,
            nbf: now,
            exp: now + 600,
        })
    }

    pub(crate) async fn me(&self, token: &str) -> Response {
        self.me_as(BUYER, token).await
    }

    pub(crate) async fn me_as(&self, account: AccountId, token: &str) -> Response {
        let request = self.client.get(self.url("/api/events/1/queue/me"));
        self.signed_in(request, account)
            .header("onsale-queue-token", token)
            .send()
            .await
            .unwrap()
    }

    /// Returns the state and the count of people ahead.
    pub(crate) async fn standing(&self, token: &str) -> (String, i64) {
        let body: Value = self.me(token).await.json().await.unwrap();
        (
            body["state"].as_str().unwrap().to_owned(),
            body["ahead"].as_i64().unwrap(),
        )
    }

    pub(crate) async fn leave(&self, token: &str) -> Response {
        self.leave_as(BUYER, token).await
    }

    pub(crate) async fn leave_as(&self, account: AccountId, token: &str) -> Response {
        let request = self.client.delete(self.url("/api/events/1/queue/me"));
        self.signed_in(request, account)
            .header("onsale-queue-token", token)
            .send()
            .await
            .unwrap()
    }
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
