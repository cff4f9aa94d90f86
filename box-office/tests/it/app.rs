//! Test harness: a box-office on free ports with a manual clock, and HTTP clients of it.

use std::net::SocketAddr;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use clap::Parser;
use domain::account::Role;
use domain::clock::ManualClock;
use platform::config::PlatformConfig;
use platform::service::Running;
use platform::testing::TestApp;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Map, Value, json};

pub(crate) const PASSWORD: &str = "correct horse battery";
const ADMIN: &str = "admin@example.org";

/// A running box-office with one admin account. Its clock only moves by [`App::next_second`] or
/// `clock.advance`.
pub(crate) struct App {
    pub(crate) test: TestApp,
    pub(crate) clock: ManualClock,
    pub(crate) public: SocketAddr,
    pub(crate) internal: SocketAddr,
    http: reqwest::Client,
}

#[derive(Parser)]
struct Settings {
    #[command(flatten)]
    config: box_office::Config,
}

impl App {
    /// Starts with rate limits too high for any test to reach.
    pub(crate) async fn start() -> Self {
        Self::start_with_limits(1_000.0).await
    }

    /// Starts with address confirmation required.
    pub(crate) async fn start_confirming() -> Self {
        Self::start_with(1_000.0, |config| config.confirm_addresses = true).await
    }

    /// Starts with rate limits scaled by `scale`, trusting `X-Forwarded-For` from loopback.
    pub(crate) async fn start_with_limits(scale: f64) -> Self {
        Self::start_with(scale, |_| {}).await
    }

    /// Starts with scaled rate limits and a modified configuration.
    pub(crate) async fn start_with(
        scale: f64,
        configure: impl FnOnce(&mut box_office::Config),
    ) -> Self {
        let clock = ManualClock::at("2026-11-01T12:00:00Z".parse().unwrap());
        let shared = Arc::new(clock.clone());
        let test = TestApp::start_with(shared, |config| {
            config.limits_scale = scale;
            config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
        })
        .await;
        let ctx = &test.ctx;
        box_office::bootstrap_admin(&ctx.db, &ctx.clock, ADMIN, &PASSWORD.into())
            .await
            .unwrap();
        let mut config = Settings::parse_from(["test"]).config;
        configure(&mut config);
        let routes = box_office::start(ctx.clone(), config).await.unwrap();
        let running = test.serve(routes).await;
        let (public, internal) = (running.public_addr, running.internal_addr);
        Self {
            clock,
            public,
            internal,
            http: reqwest::Client::new(),
            test,
        }
    }

    /// Starts another node on the same servers, with a modified platform configuration.
    pub(crate) async fn node_with(&self, configure: impl FnOnce(&mut PlatformConfig)) -> Running {
        let ctx = self.test.another_node_with(configure).await;
        let config = Settings::parse_from(["test"]).config;
        let routes = box_office::start(ctx.clone(), config).await.unwrap();
        platform::service::serve(&ctx, routes).await.unwrap()
    }

    pub(crate) async fn finish(self) {
        self.test.finish().await;
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.test.ctx.clock.now()
    }

    /// Advances the clock by a second, which expires all cached responses.
    pub(crate) fn next_second(&self) {
        self.clock.advance(TimeDelta::seconds(1));
    }

    /// An anonymous client.
    pub(crate) fn nobody(&self) -> Client<'_> {
        Client {
            app: self,
            token: None,
            address: None,
        }
    }

    /// An anonymous client at this IP address.
    pub(crate) fn nobody_at(&self, address: &str) -> Client<'_> {
        Client {
            address: Some(address.to_owned()),
            ..self.nobody()
        }
    }

    /// A client signed in as the admin.
    pub(crate) async fn admin(&self) -> Client<'_> {
        self.sign_in(ADMIN).await
    }

    /// A client signed in with a new account that has this role.
    pub(crate) async fn with_role(&self, role: Role) -> Client<'_> {
        let email = format!(
            "{}-{}@example.org",
            role.as_str(),
            uuid::Uuid::new_v4().simple()
        );
        let body = json!({"email": email, "password": PASSWORD});
        self.nobody().post("/api/accounts", &body).await.expect(201);
        let ctx = &self.test.ctx;
        box_office::grant_role(&ctx.db, &ctx.clock, &email, role)
            .await
            .unwrap();
        self.sign_in(&email).await
    }

    async fn sign_in(&self, email: &str) -> Client<'_> {
        let body = json!({"email": email, "password": PASSWORD});
        let session = self.nobody().post("/api/sessions", &body).await.expect(201);
        let token = session["session"]["access_token"]
            .as_str()
            .unwrap()
            .to_owned();
        Client::with_token(self, &token)
    }

    /// Creates an event as the admin; `fields` are added to a name and a date.
    pub(crate) async fn event(&self, fields: Value) -> Value {
        let admin = self.admin().await;
        admin
            .staff_post("/api/events", &event_body(fields))
            .await
            .expect(201)["event"]
            .clone()
    }

    /// Runs a query that returns one number.
    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql)
            .fetch_one(&self.test.ctx.db)
            .await
            .unwrap()
    }
}

/// A body for `POST /api/events`: a name, a date and `fields`.
pub(crate) fn event_body(fields: Value) -> Value {
    let mut body = json!({"name": "Night of the Proms", "date": "2027-01-30T19:00:00Z"});
    body.as_object_mut().unwrap().extend(fields_of(fields));
    body
}

/// A body for `PUT /api/events/{id}`: every required field, overridden by `fields`.
pub(crate) fn whole_body(fields: Value) -> Value {
    let mut body = event_body(json!({
        "time_zone": "UTC", "max_tickets_per_account": 6, "reminder_before_seconds": 86_400,
        "ticket_transfer": false, "description": "", "category": "", "venue": "", "city": "",
        "country": "", "price": {"amount_minor": 0, "currency": "eur"},
    }));
    body.as_object_mut().unwrap().extend(fields_of(fields));
    body
}

/// The fields of a JSON object.
pub(crate) fn fields_of(object: Value) -> Map<String, Value> {
    let Value::Object(fields) = object else {
        panic!("not an object: {object}")
    };
    fields
}

/// An HTTP client with an optional access token and a source address.
pub(crate) struct Client<'a> {
    app: &'a App,
    pub(crate) token: Option<String>,
    address: Option<String>,
}

impl<'a> Client<'a> {
    /// A client with this access token.
    pub(crate) fn with_token(app: &'a App, token: &str) -> Self {
        Self {
            app,
            token: Some(token.to_owned()),
            address: None,
        }
    }

    pub(crate) fn request(
        &self,
        listener: SocketAddr,
        method: Method,
        path: &str,
    ) -> reqwest::RequestBuilder {
        let request = self
            .app
            .http
            .request(method, format!("http://{listener}{path}"));
        let request = match &self.address {
            Some(address) => request.header("x-forwarded-for", address),
            None => request,
        };
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(
        &self,
        listener: SocketAddr,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Answer {
        let request = self.request(listener, method, path);
        let request = match body {
            Some(body) => request.json(body),
            None => request,
        };
        Answer::of(request.send().await.unwrap()).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.app.public, Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.app.public, Method::POST, path, Some(body))
            .await
    }

    pub(crate) async fn delete(&self, path: &str, body: &Value) -> Answer {
        self.send(self.app.public, Method::DELETE, path, Some(body))
            .await
    }

    pub(crate) async fn staff_get(&self, path: &str) -> Answer {
        self.send(self.app.internal, Method::GET, path, None).await
    }

    pub(crate) async fn staff_post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.app.internal, Method::POST, path, Some(body))
            .await
    }

    pub(crate) async fn staff_put(&self, path: &str, body: &Value) -> Answer {
        self.send(self.app.internal, Method::PUT, path, Some(body))
            .await
    }

    pub(crate) async fn staff_delete(&self, path: &str) -> Answer {
        self.send(self.app.internal, Method::DELETE, path, None)
            .await
    }
}

/// A response whose body was read as JSON; `Null` if it was not JSON.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    pub(crate) async fn of(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        Self {
            status,
            headers,
            body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        }
    }

    /// Asserts the status, and returns the body.
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        self.body
    }

    /// Asserts that the response is the problem `name`, and returns it.
    #[track_caller]
    pub(crate) fn problem(self, name: &str) -> Value {
        let expected = format!("https://onsale.dev/problems/{name}");
        assert_eq!(self.body["type"], expected, "{} {}", self.status, self.body);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.body["status"], self.status.as_u16());
        self.body
    }

    /// Asserts that the response is the problem `invalid` for `field`.
    #[track_caller]
    pub(crate) fn invalid(self, field: &str) {
        let problem = self.problem("invalid");
        assert_eq!(problem["field"], field, "{problem}");
        assert_eq!(problem["status"], 422);
    }
}
