//! The layers and extractors of every route.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use chrono::TimeDelta;
use domain::account::Role;
use domain::clock::{Clock, SystemClock};
use domain::limits::MAX_BODY_BYTES;
use platform::auth::Caller;
use platform::http::{ClientAddr, ConnectionLimits, Connections, Json, Path, Query, RawBody};
use platform::problem::Problem;
use platform::telemetry::{self, TraceContext};
use platform::testing::eventually;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::server::{Server, name, problem};

#[derive(Debug, Serialize, Deserialize)]
struct Order {
    tickets: u32,
    #[serde(default)]
    names: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Page {
    limit: u32,
}

fn routes() -> Router {
    Router::new()
        .route(
            "/orders",
            post(async |Json(order): Json<Order>| Json(order)),
        )
        .route(
            "/orders/{id}",
            get(async |Path(id): Path<i64>| id.to_string()),
        )
        .route(
            "/pages",
            get(async |Query(page): Query<Page>| page.limit.to_string()),
        )
        .route(
            "/raw",
            post(async |RawBody(body): RawBody| body.len().to_string())
                .layer(DefaultBodyLimit::max(2 * MAX_BODY_BYTES)),
        )
        .route(
            "/me",
            get(async |caller: Caller| caller.account_id.to_string()),
        )
        .route(
            "/maybe",
            get(async |caller: Option<Caller>| caller.is_some().to_string()),
        )
        .route(
            "/address",
            get(async |ClientAddr(address): ClientAddr| address.to_string()),
        )
        .route("/panics", get(panics))
        .route("/breaks", get(breaks))
        .route("/hangs", get(async || std::future::pending::<()>().await))
        .route(
            "/trace",
            get(async || TraceContext::current().unwrap().to_traceparent()),
        )
        .route("/large", get(async || Json("onsale ".repeat(1_000))))
        .route("/small", get(async || Json("onsale")))
}

async fn panics() {
    panic!("the handler's secret");
}

async fn breaks() -> Problem {
    Problem::internal(&std::io::Error::other("the handler's secret"))
}

async fn post_order(server: &Server, body: impl Into<reqwest::Body>) -> reqwest::Response {
    let json = ("content-type", "application/json");
    server
        .post("/orders")
        .header(json.0, json.1)
        .body(body)
        .send()
        .await
        .unwrap()
}

#[tokio::test]
async fn bad_json_is_malformed_and_the_answer_says_where() {
    let server = Server::start(routes()).await;
    let (status, answer) = problem(post_order(&server, "{\"tickets\": \"two\"}").await).await;
    assert_eq!((status, name(&answer)), (400, "malformed"));
    let detail = answer["detail"].as_str().unwrap();
    assert!(
        detail.contains("string \"two\"") && detail.contains("line 1"),
        "{detail}"
    );

    let nested = "{\"tickets\": 2, \"names\": [\"a\", 5]}";
    let (_, answer) = problem(post_order(&server, nested).await).await;
    assert!(
        answer["detail"].as_str().unwrap().contains("names[1]"),
        "{answer}"
    );

    for body in [
        "",
        "{",
        "{\"tickets\": 2} x",
        "{}",
        "{\"tickets\": -1}",
        "\u{feff}{}",
    ] {
        let (status, answer) = problem(post_order(&server, body).await).await;
        assert_eq!((status, name(&answer)), (400, "malformed"), "{body}");
    }
}

#[tokio::test]
async fn json_is_read_and_written() {
    let server = Server::start(routes()).await;
    let response = post_order(&server, "{\"tickets\": 2, \"more\": true}").await;
    assert_eq!(response.headers()["content-type"], "application/json");
    assert_eq!(response.json::<Order>().await.unwrap().tickets, 2);
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused_by_its_media_type() {
    let server = Server::start(routes()).await;
    for media_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonx",
    ] {
        let request = server
            .post("/orders")
            .header("content-type", media_type)
            .body("{}");
        let (status, answer) = problem(request.send().await.unwrap()).await;
        assert_eq!((status, name(&answer)), (415, "unsupported-media-type"));
    }
    let request = server
        .post("/orders")
        .header("content-type", "Application/JSON; charset=utf-8");
    assert_eq!(
        request
            .body("{\"tickets\": 1}")
            .send()
            .await
            .unwrap()
            .status(),
        200
    );
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_also_when_its_length_is_not_announced() {
    let server = Server::start(routes()).await;
    let long = format!("{{\"tickets\": 1{}}}", " ".repeat(MAX_BODY_BYTES));
    let (status, answer) = problem(post_order(&server, long.clone()).await).await;
    assert_eq!((status, name(&answer)), (413, "too-large"));

    let mut chunked = TcpStream::connect(server.address).await.unwrap();
    let head = "POST /orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    let request = format!("{head}{:x}\r\n{long}\r\n0\r\n\r\n", long.len());
    chunked.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    chunked.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}

#[tokio::test]
async fn a_route_may_take_longer_bodies() {
    let server = Server::start(routes()).await;
    let longer = MAX_BODY_BYTES + 1;
    let answer = server
        .post("/raw")
        .body("x".repeat(longer))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.text().await.unwrap(), longer.to_string());
}

#[tokio::test]
async fn paths_and_queries_that_do_not_parse_are_malformed() {
    let server = Server::start(routes()).await;
    for path in ["/orders/first", "/pages", "/pages?limit=many"] {
        let (status, answer) = problem(server.get(path).send().await.unwrap()).await;
        assert_eq!((status, name(&answer)), (400, "malformed"), "{path}");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let server = Server::start(routes()).await;
    let (status, answer) = problem(server.get("/nowhere").send().await.unwrap()).await;
    assert_eq!((status, name(&answer)), (404, "not-found"));
    let response = server.get("/orders").send().await.unwrap();
    assert_eq!(response.headers()["allow"], "POST");
    let (status, answer) = problem(response).await;
    assert_eq!((status, name(&answer)), (405, "method-not-allowed"));
}

#[tokio::test]
async fn a_defect_is_a_problem_with_the_trace_id_and_nothing_else() {
    let server = Server::start(routes()).await;
    for path in ["/panics", "/breaks"] {
        let response = server.get(path).send().await.unwrap();
        let request_id = response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        let (status, answer) = problem(response).await;
        assert_eq!((status, name(&answer)), (500, "internal"));
        assert_eq!(answer["trace_id"], request_id);
        assert!(!answer.to_string().contains("secret"));
    }
}

#[tokio::test]
async fn a_handler_that_hangs_is_cut_off_with_an_honest_503() {
    let server = Server::impatient(routes()).await;
    let response = server.get("/hangs").send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    let (status, answer) = problem(response).await;
    assert_eq!((status, name(&answer)), (503, "overloaded"));
}

#[tokio::test]
async fn a_stream_outlives_the_request_timeout() {
    let go_on = Arc::new(Notify::new());
    let wait = go_on.clone();
    let stream = get(async move || {
        let last = async move {
            wait.notified().await;
            Ok::<_, std::io::Error>("last")
        };
        axum::body::Body::from_stream(futures_util::stream::once(last))
    });
    let server = Server::impatient(routes().route("/stream", stream)).await;
    let response = server.get("/stream").send().await.unwrap();
    // Two requests that are cut off, one after the other, show that the limit went by twice.
    for _ in 0..2 {
        let cut_off = server.get("/hangs").send().await.unwrap();
        assert_eq!(cut_off.status(), 503);
    }
    go_on.notify_one();
    assert_eq!(response.text().await.unwrap(), "last");
}

#[tokio::test]
async fn a_trace_goes_on_from_the_caller_to_the_handler() {
    let server = Server::start(routes()).await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let response = server
        .get("/trace")
        .header("traceparent", parent)
        .send()
        .await
        .unwrap();
    assert_eq!(
        response.headers()["x-request-id"],
        "4bf92f3577b34da6a3ce929d0e0e4736"
    );
    let inside = response.text().await.unwrap();
    assert_eq!(inside[..36], parent[..36]);
    assert_ne!(inside, parent);

    let response = server
        .get("/trace")
        .header("traceparent", "rubbish")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
}

#[tokio::test]
async fn a_caller_needs_a_valid_access_token() {
    let server = Server::start(routes()).await;
    let token = server.access_token(7, &[Role::Customer]);
    let answer = server.get("/me").bearer_auth(&token).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "7");

    let response = server.get("/me").send().await.unwrap();
    assert_eq!(response.headers()["www-authenticate"], "Bearer");
    let (status, answer) = problem(response).await;
    assert_eq!((status, name(&answer)), (401, "signed-out"));

    let expired = SystemClock.now() - TimeDelta::hours(1);
    let expired = server.access_token_at(7, &[Role::Customer], expired);
    for bad in [expired, format!("{token}x"), String::new()] {
        for path in ["/me", "/maybe"] {
            let (status, answer) =
                problem(server.get(path).bearer_auth(&bad).send().await.unwrap()).await;
            assert_eq!((status, name(&answer)), (401, "signed-out"));
        }
    }
    assert_eq!(
        server
            .get("/maybe")
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap(),
        "false"
    );
}

#[tokio::test]
async fn forwarded_for_is_believed_from_trusted_proxies_only() {
    let header = ("x-forwarded-for", "1.1.1.1, 198.51.100.7, 10.1.1.1");
    let stranger = Server::start(routes()).await;
    let request = stranger.get("/address").header(header.0, header.1);
    assert_eq!(
        request.send().await.unwrap().text().await.unwrap(),
        "127.0.0.1"
    );

    let proxied = Server::behind(&["127.0.0.0/8", "10.0.0.0/8"], routes()).await;
    let request = proxied.get("/address").header(header.0, header.1);
    assert_eq!(
        request.send().await.unwrap().text().await.unwrap(),
        "198.51.100.7"
    );
}

#[tokio::test]
async fn only_large_bodies_are_compressed() {
    let server = Server::start(routes()).await;
    for (path, encoding) in [("/large", Some("gzip")), ("/small", None)] {
        let response = server
            .get(path)
            .header("accept-encoding", "gzip")
            .send()
            .await
            .unwrap();
        let seen = response
            .headers()
            .get("content-encoding")
            .map(|value| value.to_str().unwrap());
        assert_eq!(seen, encoding, "{path}");
    }
}

#[tokio::test]
async fn requests_are_counted_by_template_and_class() {
    let routes = Router::new().route("/counted/{id}", get(async || "ok"));
    let server = Server::start(routes).await;
    for id in ["1", "2"] {
        server.get(&format!("/counted/{id}")).send().await.unwrap();
    }
    let metrics = telemetry::render();
    let labels = "{route=\"/counted/{id}\",method=\"GET\",status=\"2xx\"}";
    assert!(
        metrics.contains(&format!("http_requests_total{labels} 2")),
        "{metrics}"
    );
    assert!(metrics.contains("http_request_duration_seconds_bucket{route=\"/counted/{id}\""));
    assert!(!metrics.contains("/counted/1"));
}

#[tokio::test]
async fn a_server_that_stops_finishes_what_it_began_and_accepts_no_more() {
    let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, waits) = (begun.clone(), go_on.clone());
    let slow = get(async move || {
        begins.notify_one();
        waits.notified().await;
        "done"
    });
    let server = Server::start(Router::new().route("/slow", slow)).await;
    let idle = TcpStream::connect(server.address).await.unwrap();
    let running = tokio::spawn(server.get("/slow").send());
    begun.notified().await;

    server.stop.cancel();
    while TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!server.serving.is_finished());
    go_on.notify_one();
    assert_eq!(
        running.await.unwrap().unwrap().text().await.unwrap(),
        "done"
    );
    tokio::time::timeout(SOON, server.serving)
        .await
        .unwrap()
        .unwrap();
    drop(idle);
}

#[tokio::test]
async fn a_hard_stop_does_not_wait() {
    let begun = Arc::new(Notify::new());
    let begins = begun.clone();
    let endless = get(async move || {
        begins.notify_one();
        let silence = futures_util::stream::pending::<Result<&str, std::io::Error>>();
        axum::body::Body::from_stream(silence)
    });
    let server = Server::start(Router::new().route("/endless", endless)).await;
    let running = tokio::spawn(server.get("/endless").send());
    begun.notified().await;
    server.stop.cancel();
    server.hard.cancel();
    tokio::time::timeout(SOON, server.serving)
        .await
        .unwrap()
        .unwrap();
    // Whether the head arrived or not, the body never completes.
    if let Ok(response) = running.await.unwrap() {
        assert!(response.bytes().await.is_err());
    }
}

const SOON: Duration = Duration::from_secs(30);

/// Sends one request over `stream` and returns the head of its answer.
async fn exchange(stream: &mut TcpStream, request: &[u8]) -> String {
    stream.write_all(request).await.unwrap();
    head(stream).await
}

async fn head(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let reading = async {
        while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
            let mut more = [0; 1_024];
            let length = stream.read(&mut more).await.unwrap();
            assert_ne!(length, 0, "closed without an answer");
            answer.extend_from_slice(&more[..length]);
        }
    };
    tokio::time::timeout(SOON, reading).await.unwrap();
    String::from_utf8_lossy(&answer).to_lowercase()
}

#[tokio::test]
async fn a_request_whose_client_hung_up_is_counted() {
    let entered = Arc::new(Notify::new());
    let enters = entered.clone();
    let handler = async move || {
        enters.notify_one();
        std::future::pending::<()>().await;
    };
    let server = Server::start(Router::new().route("/waits-for-ever", get(handler))).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    client
        .write_all(b"GET /waits-for-ever HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    entered.notified().await;
    drop(client);
    eventually(SOON, async || {
        telemetry::render().lines().any(|line| {
            line.starts_with("http_requests_total")
                && line.contains("/waits-for-ever")
                && line.contains("status=\"gone\"")
        })
    })
    .await;
}

#[tokio::test]
async fn an_unread_body_costs_neither_the_answer_nor_the_connection() {
    let server = Server::start(routes()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let mut request =
        b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 60000\r\n\r\n".to_vec();
    request.extend(vec![b'x'; 60_000]);
    for _ in 0..2 {
        let answer = exchange(&mut stream, &request).await;
        assert!(answer.starts_with("http/1.1 404"), "{answer}");
        assert!(!answer.contains("connection: close"), "{answer}");
        // The problem's body, so that the next answer begins at its head.
        let length: usize = answer
            .split_once("content-length: ")
            .and_then(|(_, rest)| rest.split_once("\r\n"))
            .and_then(|(length, _)| length.parse().ok())
            .unwrap();
        let (_, begun) = answer.split_once("\r\n\r\n").unwrap();
        let mut rest = vec![0; length - begun.len()];
        stream.read_exact(&mut rest).await.unwrap();
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_to_be_read_for_nothing_ends_the_connection_with_the_answer() {
    let server = Server::start(routes()).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let request = b"POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n";
    let answer = exchange(&mut stream, request).await;
    assert!(answer.starts_with("http/1.1 404"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn answers_for_one_caller_are_not_stored_and_no_answer_is_sniffed() {
    let server = Server::start(routes()).await;
    let token = server.access_token(7, &[Role::Customer]);
    let personal = server.get("/me").bearer_auth(token).send().await.unwrap();
    assert_eq!(personal.status(), 200);
    assert_eq!(personal.headers()["cache-control"], "no-store");
    let shared = server.get("/orders/7").send().await.unwrap();
    assert!(!shared.headers().contains_key("cache-control"));
    for answer in [personal, shared] {
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert!(answer.headers().contains_key("strict-transport-security"));
    }
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let connections = Connections::new(ConnectionLimits {
        total: 100,
        per_address: 2,
        trusted: Vec::new(),
    });
    let server = Server::bounded(connections, &[], routes()).await;
    let request = b"GET /orders/7 HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        assert!(
            exchange(&mut stream, request)
                .await
                .starts_with("http/1.1 200")
        );
        idle.push(stream);
    }
    let mut third = TcpStream::connect(server.address).await.unwrap();
    let mut refused = String::new();
    third.read_to_string(&mut refused).await.unwrap();
    let (head, body) = refused.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 429 Too Many Requests\r\n"));
    for header in [
        "content-type: application/problem+json",
        "retry-after: 1",
        "connection: close",
    ] {
        assert!(head.contains(header), "{head}");
    }
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(
        (name(&body), body["status"].as_u64()),
        ("rate-limited", Some(429))
    );
    idle.pop();
    eventually(SOON, async || {
        let mut next = TcpStream::connect(server.address).await.unwrap();
        head_of(&mut next, request)
            .await
            .is_some_and(|answer| answer.starts_with("http/1.1 200"))
    })
    .await;
}

/// What is no request reaches no layer: the HTTP library answers by itself, without a body.
#[tokio::test]
async fn a_head_that_can_not_be_read_is_refused_and_the_connection_ends() {
    let server = Server::start(routes()).await;
    let long = format!("x: {}\r\n", "y".repeat(256 * 1_024));
    for (header, status) in [("no colon\r\n", "400 Bad Request"), (&long, "431 ")] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let request = format!("GET /orders/7 HTTP/1.1\r\nhost: x\r\n{header}\r\n");
        // The rest of a long head may find the connection closed.
        let _unread = stream.write_all(request.as_bytes()).await;
        let answer = head(&mut stream).await;
        let expected = format!("http/1.1 {}", status.to_lowercase());
        assert!(answer.starts_with(&expected), "{answer}");
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut rest)).await;
        assert!(
            ended.is_ok() && rest.is_empty(),
            "the connection stays open"
        );
    }
}

/// [`exchange`] on a connection that may be refused.
async fn head_of(stream: &mut TcpStream, request: &[u8]) -> Option<String> {
    stream.write_all(request).await.ok()?;
    let mut answer = vec![0; 1_024];
    let length = stream.read(&mut answer).await.ok()?;
    Some(String::from_utf8_lossy(&answer[..length]).to_lowercase())
}

#[tokio::test]
async fn a_proxy_that_is_not_trusted_is_named_once() {
    let server = Server::start(routes()).await;
    let degraded = || server.health.readiness(false).degraded.join(" ");
    assert!(!degraded().contains("ONSALE_TRUSTED_PROXIES"));
    for _ in 0..2 {
        let request = server
            .get("/orders/7")
            .header("x-forwarded-for", "192.0.2.1");
        request.send().await.unwrap();
    }
    assert_eq!(degraded().matches("ONSALE_TRUSTED_PROXIES").count(), 1);
}
