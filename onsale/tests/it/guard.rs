//! Guarding another site: `verify-pass` and the sample code accept valid passes, by the published
//! keys alone.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test's own steps; a skipped part is said"
)]

use std::io::{BufRead as _, BufReader};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use anyhow::Context as _;
use axum::Router;
use axum::routing::get;
use domain::clock::SystemClock;
use domain::token::{ISSUER, PassClaims, QueueClaims, sale_audience};
use domain::{EventId, Place};
use platform::tokens::KeyRing;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

const OLD: &str = "old-secret-old-secret-old-secret-old-secret";
pub(crate) const NEW: &str = "new-secret-new-secret-new-secret-new-secret";
pub(crate) const SALE: EventId = EventId(1);

pub(crate) fn ring(secrets: &[&str]) -> KeyRing {
    let secrets: Vec<_> = secrets.iter().map(|&secret| secret.into()).collect();
    KeyRing::new(&secrets).unwrap()
}

pub(crate) fn pass(ring: &KeyRing, sale: EventId, lasts: i64) -> String {
    let now = SystemClock::shared().now().timestamp();
    ring.sign_pass(&PassClaims {
        iss: ISSUER.to_owned(),
        aud: sale_audience(sale),
        sub: "7".to_owned(),
        jti: "a pass".to_owned(),
        place: Place(3),
        iat: now,
        nbf: now - 100,
        exp: now + lasts,
    })
}

/// A server of the published keys.
pub(crate) struct Publisher {
    pub(crate) url: String,
    jwks: Arc<Mutex<Value>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Publisher {
    pub(crate) async fn start(ring: &KeyRing) -> Self {
        let jwks = Arc::new(Mutex::new(ring.jwks()));
        let shown = Arc::clone(&jwks);
        let answer = async move || axum::Json(shown.lock().unwrap().clone());
        let routes = Router::new().route("/.well-known/jwks.json", get(answer));
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            axum::serve(listener, routes).await.unwrap();
        });
        Self { url, jwks, serving }
    }
}

/// A running `onsale verify-pass`; dropping it stops it.
pub(crate) struct Verifier {
    process: Child,
    pub(crate) url: String,
    client: Client,
}

impl Verifier {
    pub(crate) fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        stand_ins::tls::install();
        let mut process = Command::new(env!("CARGO_BIN_EXE_onsale"))
            .args(["verify-pass", "--sale", "1", "--listen", "127.0.0.1:0"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()?;
        let mut line = String::new();
        let stdout = process.stdout.take().context("its output is piped")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let url = line.split_whitespace().last().context("it says where")?;
        Ok(Self {
            url: url.to_owned(),
            process,
            client: Client::new(),
        })
    }

    /// Sends a subrequest as nginx's `auth_request` does: the client's headers, no body.
    async fn ask(&self, header: &str, value: &str) -> Response {
        self.client
            .get(format!("{}/_pass", self.url))
            .header(header, value)
            .send()
            .await
            .unwrap()
    }

    async fn is_let_in(&self, pass: &str) -> bool {
        let by_cookie = self
            .ask("cookie", &format!("a=b; onsale_pass={pass}"))
            .await;
        let by_header = self.ask("onsale-pass", pass).await;
        assert_eq!(by_cookie.status(), by_header.status());
        if by_header.status() == StatusCode::NO_CONTENT {
            assert_eq!(by_header.headers()["onsale-account"], "7");
            return true;
        }
        assert_eq!(by_header.status(), StatusCode::UNAUTHORIZED);
        assert!(!by_header.headers().contains_key("onsale-account"));
        false
    }
}

impl Drop for Verifier {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guarded_site_follows_a_rotation_and_outlives_the_publisher() {
    let (old, new) = (ring(&[OLD]), ring(&[NEW, OLD]));
    let publisher = Publisher::start(&old).await;
    let jwks = format!("{}/.well-known/jwks.json", publisher.url);
    let verifier = Verifier::start(&["--jwks", &jwks]).unwrap();
    assert!(verifier.is_let_in(&pass(&old, SALE, 600)).await);

    *publisher.jwks.lock().unwrap() = new.jwks();
    assert_eq!(new.jwks()["keys"].as_array().unwrap().len(), 2);
    assert!(
        verifier.is_let_in(&pass(&new, SALE, 600)).await,
        "the first pass of the new key makes the keys be read"
    );
    assert!(verifier.is_let_in(&pass(&old, SALE, 600)).await);

    publisher.serving.abort();
    assert!(verifier.is_let_in(&pass(&old, SALE, 600)).await);
    assert!(
        !verifier
            .is_let_in(&pass(&ring(&["x".repeat(40).as_str()]), SALE, 600))
            .await
    );
    assert!(verifier.is_let_in(&pass(&new, SALE, 600)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_no_good_pass_is_sent_to_the_waiting_room() {
    let keys = ring(&[NEW]);
    let publisher = Publisher::start(&keys).await;
    let jwks = format!("{}/.well-known/jwks.json", publisher.url);
    let verifier = Verifier::start(&["--jwks", &jwks]).unwrap();
    let without = verifier.ask("x-nothing", "1").await;
    assert_eq!(without.status(), StatusCode::UNAUTHORIZED);
    let waiting_room = format!("{}/events/1", publisher.url);
    assert_eq!(without.headers()["onsale-waiting-room"], waiting_room);
    assert_eq!(
        without.json::<Value>().await.unwrap()["waiting_room"],
        waiting_room
    );

    let good = pass(&keys, SALE, 600);
    let (signed, _) = good.rsplit_once('.').unwrap();
    let (_, claims) = signed.split_once('.').unwrap();
    let now = SystemClock::shared().now().timestamp();
    let queue_token = keys.sign_queue(
        &QueueClaims {
            iss: ISSUER.to_owned(),
            aud: sale_audience(SALE),
            sub: "7".to_owned(),
            number: domain::Number(3),
            iat: now,
            nbf: now,
            exp: now + 600,
        },
        "",
    );
    let attacks = [
        pass(&keys, EventId(2), 600),
        pass(&keys, SALE, -6),
        pass(&ring(&[OLD]), SALE, 600),
        queue_token,
        // {"alg":"none","typ":"pass+jwt"}
        format!("eyJhbGciOiJub25lIiwidHlwIjoicGFzcytqd3QifQ.{claims}."),
        format!("{signed}.{}", "A".repeat(86)),
        "nonsense".to_owned(),
        "a".repeat(5_000),
    ];
    for (index, token) in attacks.iter().enumerate() {
        assert!(!verifier.is_let_in(token).await, "attack {index}");
    }
    assert!(verifier.is_let_in(&good).await);
}

/// Asserts that a proxy redirects requests without a valid pass to the waiting room, uncached, and
/// whatever account they claim.
pub(crate) async fn others_go_to_the_waiting_room(
    client: &Client,
    url: &str,
    keys: &KeyRing,
    publisher: &Publisher,
) {
    let claims_to_be_somebody = client.get(url).header("onsale-account", "7");
    let late = client.get(url).header("onsale-pass", pass(keys, SALE, -6));
    for request in [claims_to_be_somebody, late] {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::FOUND);
        let waiting_room = format!("{}/events/1", publisher.url);
        assert_eq!(answer.headers()["location"], waiting_room);
        assert_eq!(answer.headers()["cache-control"], "no-store");
    }
}

pub(crate) fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/examples/guard")
        .join(name)
}

/// Runs a program that must accept the valid passes and refuse the others; prints SKIPPED when it
/// is not installed.
fn try_example(program: &str, probe: &[&str], arguments: &[&str], input: &Value) {
    let has = Command::new(program).args(probe).output();
    if !has.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: {program} {probe:?} does not run here");
        return;
    }
    let output = Command::new(program)
        .args(arguments)
        .env("INPUT", input.to_string())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        shown.split_whitespace().collect::<Vec<_>>(),
        ["7", "7", "refused", "refused", "refused"],
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_sample_code_of_an_origin_lets_in_good_passes_only() {
    let (old, new) = (ring(&[OLD]), ring(&[NEW, OLD]));
    let input = json!({
        "jwks": new.jwks(),
        "passes": [
            pass(&old, SALE, 600),
            pass(&new, SALE, 600),
            pass(&new, EventId(2), 600),
            pass(&new, SALE, -6),
            pass(&ring(&["x".repeat(40).as_str()]), SALE, 600),
        ],
    });
    let script = format!(
        "import {{ accountOf }} from {:?};
         const {{ jwks, passes }} = JSON.parse(process.env.INPUT);
         for (const pass of passes) {{
           try {{ console.log(accountOf(pass, 1, jwks)); }} catch {{ console.log('refused'); }}
         }}",
        example("origin.mjs")
    );
    let arguments = ["--input-type=module", "--eval", &script];
    try_example("node", &["--version"], &arguments, &input);

    let script = format!(
        "
import json, os, sys
sys.path.insert(0, {:?})
import jwt, origin
given = json.loads(os.environ['INPUT'])
class Keys(jwt.PyJWKClient):
    def fetch_data(self): return given['jwks']
for token in given['passes']:
    try: print(origin.account_of(token, 1, Keys('https://tickets.example')))
    except jwt.PyJWTError: print('refused')
",
        example("")
    );
    let probe = ["-c", "import jwt, cryptography"];
    try_example("python3", &probe, &["-B", "-c", &script], &input);
}
