//! A server with platform's layers around a test's own routes, without databases.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::Router;
use chrono::{DateTime, Utc};
use domain::account::Role;
use domain::clock::{Clock, SystemClock};
use domain::token::{ACCESS_AUDIENCE, AccessClaims, ISSUER};
use ipnet::IpNet;
use platform::config::LogFormat;
use platform::health::Health;
use platform::http::{self, Connections, HttpState};
use platform::telemetry;
use platform::tokens::KeyRing;
use secrecy::SecretString;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest time that a request may take: more than any stall of the machine.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// That of a server whose requests are to be cut off.
const SHORT_TIMEOUT: Duration = Duration::from_millis(300);

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) client: reqwest::Client,
    pub(crate) stop: CancellationToken,
    pub(crate) hard: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
    pub(crate) health: Health,
    keys: Arc<KeyRing>,
}

impl Server {
    pub(crate) async fn start(routes: Router) -> Self {
        Self::behind(&[], routes).await
    }

    pub(crate) async fn behind(proxies: &[&str], routes: Router) -> Self {
        Self::bounded(Connections::unlimited(), proxies, routes).await
    }

    pub(crate) async fn bounded(
        connections: Connections,
        proxies: &[&str],
        routes: Router,
    ) -> Self {
        Self::with(connections, proxies, REQUEST_TIMEOUT, routes).await
    }

    /// Cuts off requests that take longer than a moment.
    pub(crate) async fn impatient(routes: Router) -> Self {
        Self::with(Connections::unlimited(), &[], SHORT_TIMEOUT, routes).await
    }

    async fn with(
        connections: Connections,
        proxies: &[&str],
        request_timeout: Duration,
        routes: Router,
    ) -> Self {
        let health = Health::default();
        telemetry::init(LogFormat::Json, None);
        let _ = rustls::crypto::ring::default_provider().install_default();
        let secret = SecretString::from("test-secret-test-secret-test-secret");
        let keys = Arc::new(KeyRing::new(&[secret]).unwrap());
        let shared = HttpState {
            keys: keys.clone(),
            clock: SystemClock::shared(),
            trusted_proxies: proxies
                .iter()
                .map(|net| net.parse::<IpNet>().unwrap())
                .collect(),
            request_timeout,
            is_secure: true,
            health: health.clone(),
            has_untrusted_forwarder: AtomicBool::new(false),
        };
        let listener = http::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.address();
        let (stop, hard) = (CancellationToken::new(), CancellationToken::new());
        let routes = http::wrap(routes, Arc::new(shared));
        let serving = tokio::spawn(listener.serve(routes, connections, stop.clone(), hard.clone()));
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        Self {
            address,
            client,
            stop,
            hard,
            serving,
            health,
            keys,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.get(self.url(path))
    }

    pub(crate) fn post(&self, path: &str) -> reqwest::RequestBuilder {
        self.client.post(self.url(path))
    }

    pub(crate) fn access_token(&self, account: i64, roles: &[Role]) -> String {
        self.access_token_at(account, roles, SystemClock.now())
    }

    pub(crate) fn access_token_at(
        &self,
        account: i64,
        roles: &[Role],
        now: DateTime<Utc>,
    ) -> String {
        self.keys.sign_access(&AccessClaims {
            iss: ISSUER.into(),
            aud: ACCESS_AUDIENCE.into(),
            sub: account.to_string(),
            roles: roles.to_vec(),
            iat: now.timestamp(),
            nbf: now.timestamp(),
            exp: now.timestamp() + 900,
        })
    }
}

/// Status and problem of an answer that must be one.
pub(crate) async fn problem(response: reqwest::Response) -> (u16, serde_json::Value) {
    assert_eq!(
        response.headers()["content-type"],
        "application/problem+json"
    );
    (response.status().as_u16(), response.json().await.unwrap())
}

/// The last segment of a problem's `type`.
pub(crate) fn name(problem: &serde_json::Value) -> &str {
    problem["type"]
        .as_str()
        .unwrap()
        .rsplit('/')
        .next()
        .unwrap()
}
