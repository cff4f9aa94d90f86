//! A waiting room whose release leader is the test.

use std::time::Duration;

use domain::queue::Snapshot;
use domain::sale::SaleState;
use domain::token::{ACCESS_AUDIENCE, AccessClaims, ISSUER, QueueClaims, sale_audience};
use domain::{AccountId, EventId, Place, account::Role};
use platform::redis::AsyncCommands;
use platform::testing::{TestApp, eventually};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;

pub(crate) const EVENT: EventId = EventId(1);
pub(crate) const BUYER: AccountId = AccountId(7);
pub(crate) const OTHER: AccountId = AccountId(8);

pub(crate) struct Hall {
    pub(crate) app: TestApp,
    pub(crate) client: Client,
    pub(crate) base: String,
    snapshot: Snapshot,
}

impl Hall {
    /// One open sale that nobody has joined.
    pub(crate) async fn open() -> Self {
        Self::with_limits(100.0).await
    }

    pub(crate) async fn with_limits(scale: f64) -> Self {
        let clock = domain::clock::SystemClock::shared();
        let app = TestApp::start_with(clock, |config| {
            config.limits_scale = scale;
            config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        })
        .await;
        let config = waiting_room::Config::default();
        let routes = waiting_room::start(app.ctx.clone(), config).await.unwrap();
        let base = format!("http://{}", app.serve(routes).await.public_addr);
        let now = app.ctx.clock.now();
        let snapshot = Snapshot {
            event_id: EVENT,
            seq: 0,
            at: now,
            state: SaleState::Open,
            message: String::new(),
            challenge: false,
            anonymous: false,
            lottery: domain::queue::Lottery::default(),
            claim_window_seconds: 120,
            rate_per_minute: 600,
            joined: Place(0),
            cursor: Place(0),
            missed_below: Place(0),
            left: 0,
            waiting: 0,
            shopping: 0,
            shopper_cap: 100,
            claimed_last_minute: 0,
            available: Some(10),
            likely_until: None,
            ahead: domain::ahead::Ahead::default(),
            pace: Some(domain::queue::Pace {
                p50_per_hour: 36_000,
                p90_per_hour: 27_000,
            }),
            brake: domain::queue::Braking::default(),
            tokens_expire_at: now.timestamp() + 3_600,
            poll_after_ms: 2_000,
        };
        let mut hall = Self {
            app,
            client: Client::new(),
            base,
            snapshot,
        };
        hall.publish(|_| ()).await;
        hall
    }

    /// Where another node of the same installation answers.
    pub(crate) async fn another_node(&self) -> String {
        let ctx = self.app.another_node().await;
        let config = waiting_room::Config::default();
        let routes = waiting_room::start(ctx.clone(), config).await.unwrap();
        let running = platform::service::serve(&ctx, routes).await.unwrap();
        format!("http://{}", running.public_addr)
    }

    /// What the release leader does: writes the next snapshot, with the cursors beside it.
    pub(crate) async fn publish(&mut self, change: impl FnOnce(&mut Snapshot)) {
        change(&mut self.snapshot);
        self.snapshot.seq += 1;
        let keys = self.app.ctx.sale_keys(EVENT);
        let mut redis = self.app.ctx.redis.clone();
        let _: () = redis
            .set(keys.cursor(), self.snapshot.cursor.0)
            .await
            .unwrap();
        let _: () = redis
            .set(keys.missed_below(), self.snapshot.missed_below.0)
            .await
            .unwrap();
        let json = serde_json::to_vec(&self.snapshot).unwrap();
        let _: () = redis.set(keys.snapshot(), json).await.unwrap();
        let seq = self.snapshot.seq;
        eventually(Duration::from_secs(2), async || self.seq().await == seq).await;
    }

    async fn seq(&self) -> i64 {
        let body: Value = self.get("/api/events/1/queue").await.json().await.unwrap();
        body["seq"].as_i64().unwrap()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.client.get(self.url(path)).send().await.unwrap()
    }

    pub(crate) fn signed_in(&self, request: RequestBuilder, account: AccountId) -> RequestBuilder {
        let now = self.app.ctx.clock.now().timestamp();
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

    /// Joins; the queue token and the place.
    pub(crate) async fn place(&self, account: AccountId) -> (String, i64) {
        let body: Value = self.join(account).await.json().await.unwrap();
        (
            body["queue_token"].as_str().unwrap().to_owned(),
            body["place"].as_i64().unwrap(),
        )
    }

    pub(crate) fn token(&self, event_id: EventId, place: i64, lasts: i64) -> String {
        let now = self.app.ctx.clock.now().timestamp();
        self.app.ctx.keys.sign_queue(&QueueClaims {
            iss: ISSUER.to_owned(),
            aud: sale_audience(event_id),
            sub: BUYER.to_string(),
            place: Place(place),
            iat: now,
            nbf: now - 100,
            exp: now + lasts,
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

    /// State, and how many are ahead.
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

/// The name of a problem.
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
