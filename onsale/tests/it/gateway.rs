//! The gateway of compose.yaml in a real nginx: routing by path, connection reuse, caching, limits,
//! TLS.

#![expect(clippy::unwrap_used, reason = "a test's own steps")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::Uri;
use axum::routing::any;
use axum::serve::ListenerExt as _;
use platform::testing::eventually;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use serde_json::Value;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::nginx::{Nginx, program};
use crate::system::free_address;

/// Longest wait for a condition, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const PUBLIC: &str = "public";
const INTERNAL: &str = "internal";

/// Listener, path and owner of the operations that box-office does not own.
const OWNERS: [(&str, &str, &str); 32] = [
    (PUBLIC, "/api/events/{id}/queue", "waiting-room"),
    (PUBLIC, "/api/events/{id}/queue/me", "waiting-room"),
    (PUBLIC, "/api/events/{id}/queue/stream", "waiting-room"),
    (PUBLIC, "/api/events/{id}/queue/challenge", "waiting-room"),
    (PUBLIC, "/api/events/{id}/queue/lottery", "admission"),
    (PUBLIC, "/api/events/{id}/pass", "admission"),
    (PUBLIC, "/.well-known/jwks.json", "admission"),
    (PUBLIC, "/api/bookings", "admission"),
    (PUBLIC, "/api/bookings/{id}", "admission"),
    (PUBLIC, "/api/bookings/user/{user_id}", "admission"),
    (PUBLIC, "/api/bookings/{id}/cancel", "admission"),
    (PUBLIC, "/api/bookings/{id}/card", "payment-worker"),
    (PUBLIC, "/api/bookings/{id}/refund", "payment-worker"),
    (PUBLIC, "/api/saved-cards", "payment-worker"),
    (PUBLIC, "/api/saved-cards/{id}", "payment-worker"),
    (PUBLIC, "/api/tickets", "booking-worker"),
    (PUBLIC, "/api/tickets/{code}/transfer", "booking-worker"),
    (PUBLIC, "/api/tickets/{code}/replace", "booking-worker"),
    (PUBLIC, "/api/webhooks/stripe", "payment-worker"),
    (PUBLIC, "/api/events/{id}/refund-policy", "payment-worker"),
    (INTERNAL, "/api/tickets/{code}/check-in", "booking-worker"),
    (INTERNAL, "/api/bookings", "admission"),
    (INTERNAL, "/api/bookings/{id}", "admission"),
    (INTERNAL, "/api/bookings/user/{user_id}", "admission"),
    (INTERNAL, "/api/bookings/{id}/cancel", "admission"),
    (INTERNAL, "/api/bookings/{id}/timeline", "payment-worker"),
    (INTERNAL, "/api/bookings/{id}/refunds", "payment-worker"),
    (INTERNAL, "/api/events/{id}/refund-policy", "payment-worker"),
    (INTERNAL, "/api/events/{id}/refunds", "payment-worker"),
    (INTERNAL, "/api/payment-findings", "payment-worker"),
    (INTERNAL, "/api/mails", "notifier"),
    (INTERNAL, "/api/mails/{id}/again", "notifier"),
];

fn repository(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::read_to_string(root.join(path)).unwrap()
}

/// Every documented listener and path.
fn documented() -> BTreeSet<(String, String)> {
    let document: Value = serde_json::from_str(&repository("docs/openapi.json")).unwrap();
    let paths = document["paths"].as_object().unwrap();
    let mut all = BTreeSet::new();
    for (path, operations) in paths {
        for operation in operations.as_object().unwrap().values() {
            for listener in operation["x-onsale-listeners"]
                .as_array()
                .into_iter()
                .flatten()
            {
                all.insert((listener.as_str().unwrap().to_owned(), path.clone()));
            }
        }
    }
    all
}

/// An upstream that answers with its name and counts connections and requests.
struct Origin {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Origin {
    async fn start(name: &'static str) -> Self {
        let connections: Arc<AtomicUsize> = Arc::default();
        let requests: Arc<AtomicUsize> = Arc::default();
        let asked = Arc::clone(&requests);
        let answer = async move |uri: Uri| {
            let count = AtomicUsize::fetch_add(&asked, 1, Ordering::SeqCst);
            let caching = if uri.path().ends_with("/me") {
                "no-store"
            } else {
                "public, max-age=1"
            };
            let headers = [("cache-control", caching), ("x-count", &*count.to_string())]
                .map(|(name, value)| (name, value.to_owned()));
            (headers, name)
        };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let opened = Arc::clone(&connections);
        let listener = listener.tap_io(move |_| {
            opened.fetch_add(1, Ordering::SeqCst);
        });
        let routes = Router::new().fallback(any(answer));
        let serving = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self {
            address,
            connections,
            requests,
            serving,
        }
    }
}

/// A client that follows no redirect and trusts the certificates of these tests.
fn client() -> Client {
    stand_ins::tls::install();
    Client::builder()
        .no_proxy()
        .redirect(Policy::none())
        .danger_accept_invalid_certs(true)
        .build()
        .unwrap()
}

/// The gateway in front of the test's upstreams.
struct Gateway {
    origins: BTreeMap<&'static str, Origin>,
    public: SocketAddr,
    internal: SocketAddr,
    client: Client,
    _nginx: Nginx,
    files: PathBuf,
}

impl Gateway {
    async fn start(replacements: &[(&str, &str)]) -> Self {
        Self::start_with(replacements, |_| {}).await
    }

    /// Starts it after `prepare` has filled the folder of included settings.
    async fn start_with(replacements: &[(&str, &str)], prepare: impl FnOnce(&Path)) -> Self {
        let program = program().expect("`./dev test` installs nginx");
        let (public, internal) = (free_address(), free_address());
        let name = format!("onsale-gateway-{:016x}", rand::random::<u64>());
        let files = std::env::temp_dir().join(name);
        fs::create_dir_all(&files).unwrap();
        prepare(&files);
        let mut origins = BTreeMap::new();
        let mut config = repository("deploy/gateway.conf")
            // `resolve` is of a later nginx than distributions have; there is no Docker here.
            .replace(" resolve max_fails=0", " max_fails=0")
            .replace("resolver 127.0.0.11 valid=5s;", "")
            .replace(
                "/var/cache/nginx/onsale",
                &format!("{}/cache", files.display()),
            )
            .replace("/etc/nginx/onsale", &files.display().to_string())
            .replace("listen 80;", &format!("listen {public};"))
            .replace("listen 81;", &format!("listen {internal};"));
        for (name, server) in SERVERS {
            let origin = Origin::start(name).await;
            let place = format!("upstream {name} {{\n        zone {name} 256k;\n        server ");
            let from = format!("{place}{server} ");
            assert!(config.contains(&from), "no {from}");
            config = config.replace(&from, &format!("{place}{} ", origin.address));
            origins.insert(name, origin);
        }
        for (from, to) in replacements {
            assert!(config.contains(from), "the gateway has no {from}");
            config = config.replace(from, to);
        }
        let nginx = Nginx::start(&program, public, &config);
        let gateway = Self {
            origins,
            public,
            internal,
            client: client(),
            _nginx: nginx,
            files,
        };
        eventually(PATIENCE, async || {
            gateway.get(public, "/healthy").await.is_ok()
        })
        .await;
        gateway
    }

    async fn get(&self, listener: SocketAddr, path: &str) -> reqwest::Result<Response> {
        let url = format!("http://{listener}{path}");
        self.client.get(url).send().await
    }

    async fn text(&self, listener: SocketAddr, path: &str) -> String {
        self.get(listener, path)
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.files);
    }
}

/// The upstreams and their addresses in compose.yaml.
const SERVERS: [(&str, &str); 10] = [
    ("waiting-room", "waiting-room:8080"),
    ("admission", "admission:8080"),
    ("box-office", "box-office:8080"),
    ("booking-worker", "booking-worker:8080"),
    ("payment-worker", "payment-worker:8080"),
    ("box-office-staff", "box-office:8081"),
    ("admission-staff", "admission:8081"),
    ("booking-worker-staff", "booking-worker:8081"),
    ("payment-worker-staff", "payment-worker:8081"),
    ("notifier-staff", "notifier:8081"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_path_of_the_api_reaches_its_owner() {
    let documented = documented();
    for (listener, path, _) in OWNERS {
        let place = (listener.to_owned(), path.to_owned());
        assert!(documented.contains(&place), "{place:?} is not documented");
    }
    let gateway = Gateway::start(&[]).await;
    for (listener, path) in documented {
        let (address, suffix) = if listener == PUBLIC {
            (gateway.public, "")
        } else {
            (gateway.internal, "-staff")
        };
        let known = OWNERS
            .iter()
            .find(|(on, known, _)| *on == listener && *known == path);
        let findings = path
            .starts_with("/api/payment-findings")
            .then_some("payment-worker");
        let owner = known.map(|(.., owner)| *owner).or(findings);
        let asked = path.replace(['{', '}'], "");
        let answer = gateway.text(address, &asked).await;
        let owner = format!("{}{suffix}", owner.unwrap_or("box-office"));
        assert_eq!(answer, owner, "{listener} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_share_connections_to_the_waiting_room() {
    let gateway = Gateway::start(&[]).await;
    for _ in 0..100 {
        let path = "/api/events/1/queue/me";
        assert_eq!(gateway.text(gateway.public, path).await, "waiting-room");
    }
    let origin = &gateway.origins["waiting-room"];
    assert_eq!(origin.requests.load(Ordering::SeqCst), 100);
    let opened = origin.connections.load(Ordering::SeqCst);
    assert!(opened <= 8, "{opened} connections for 100 polls");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_asks_for_the_snapshot_is_answered_from_the_cache() {
    // An origin that stands still on a busy machine is asked once, too.
    let patient = (
        "proxy_cache_lock_timeout 2s;",
        "proxy_cache_lock_timeout 60s;",
    );
    let gateway = Gateway::start(&[patient]).await;
    let path = "/api/events/1/queue";
    let asks = (0..300).map(|_| gateway.text(gateway.public, path));
    let start = std::time::Instant::now();
    for answer in futures_util::future::join_all(asks).await {
        assert_eq!(answer, "waiting-room");
    }
    let asked = gateway.origins["waiting-room"]
        .requests
        .load(Ordering::SeqCst);
    // One a second, and one refresh in the background.
    let most = 2 + 2 * usize::try_from(start.elapsed().as_secs()).unwrap();
    assert!(asked <= most, "300 asks reached the origin {asked} times");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_snapshot_stays_while_the_waiting_room_is_away_and_nothing_personal_does() {
    let gateway = Gateway::start(&[]).await;
    let path = "/api/events/1/queue";
    assert_eq!(gateway.text(gateway.public, path).await, "waiting-room");
    gateway.origins["waiting-room"].serving.abort();
    eventually(PATIENCE, async || {
        let personal = gateway.get(gateway.public, "/api/events/1/queue/me").await;
        personal.is_ok_and(|answer| answer.status() == StatusCode::BAD_GATEWAY)
    })
    .await;
    eventually(PATIENCE, async || {
        let snapshot = gateway.get(gateway.public, path).await.unwrap();
        assert_eq!(snapshot.status(), StatusCode::OK);
        let cache = snapshot.headers()["x-cache-status"].clone();
        assert_eq!(snapshot.text().await.unwrap(), "waiting-room");
        cache == "STALE" || cache == "UPDATING"
    })
    .await;
}

/// Puts the example for TLS, listening on `address`, and a self-signed certificate into `files`.
fn add_tls(files: &Path, address: SocketAddr) {
    let certificates = files.display().to_string();
    let mut config = repository("deploy/tls.conf");
    for (from, to) in [
        ("listen 443 ", format!("listen {address} ")),
        ("/etc/nginx/certs", certificates),
    ] {
        assert!(config.contains(from), "the example has no {from}");
        config = config.replace(from, &to);
    }
    fs::write(files.join("tls.conf"), config).unwrap();
    let made = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args(["-subj", "/CN=shop", "-keyout", "privkey.pem"])
        .args(["-out", "fullchain.pem"])
        .current_dir(files)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_http_is_redirected_and_the_cache_is_shown_as_without() {
    let tls = free_address();
    let gateway = Gateway::start_with(&[], |files| add_tls(files, tls)).await;
    let path = "/api/events/1/queue";
    let plain = gateway.get(gateway.public, &format!("{path}?a=b")).await;
    let plain = plain.unwrap();
    assert_eq!(plain.status(), StatusCode::PERMANENT_REDIRECT);
    let target = format!("https://{}{path}?a=b", tls.ip());
    assert_eq!(plain.headers()["location"], target);
    let url = format!("https://{tls}{path}");
    let answer = gateway.client.get(url).send().await.unwrap();
    assert_eq!(answer.headers()["x-cache-status"], "MISS");
    let hsts = &answer.headers()["strict-transport-security"];
    assert_eq!(hsts, "max-age=31536000");
    assert_eq!(answer.text().await.unwrap(), "waiting-room");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_cannot_take_all_connections() {
    let gateway = Gateway::start(&[("limit_conn address 1000;", "limit_conn address 1;")]).await;
    // A body that is never sent keeps its connection open until the gateway times it out, after
    // which a busy machine tries again.
    let head = "POST /api/bookings HTTP/1.1\r\nhost: shop\r\ncontent-length: 5\r\n\r\n";
    let mut open = None;
    eventually(PATIENCE, async || {
        drop(open.take());
        let stream = TcpStream::connect(gateway.public).await.unwrap();
        let stream = open.insert(stream);
        stream.write_all(head.as_bytes()).await.unwrap();
        let other = gateway.get(gateway.public, "/api/bookings").await;
        other.is_ok_and(|answer| answer.status() == StatusCode::SERVICE_UNAVAILABLE)
    })
    .await;
    drop(open);
    eventually(PATIENCE, async || {
        let other = gateway.get(gateway.public, "/api/bookings").await;
        other.is_ok_and(|answer| answer.status() == StatusCode::OK)
    })
    .await;
}
