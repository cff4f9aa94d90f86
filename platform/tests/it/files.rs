//! A process that may open few files, under somebody who opens connections.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use domain::clock::SystemClock;
use platform::problem::Problem;
use platform::service::{Context, Routes};
use platform::testing::TestApp;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The test, which also runs itself as the process with few files.
const NAME: &str = "files::buyers_and_operations_go_on_when_somebody_uses_up_the_connections";
const FILES: usize = 256;
const PER_ADDRESS: usize = 50;
const SOON: Duration = Duration::from_secs(60);

/// Set in the process with few files.
const SERVES: &str = "ONSALE_TEST_SERVES";

async fn buy(ctx: Context) -> Result<&'static str, Problem> {
    // Eight at a time, so that the pool opens connections.
    let connections = (0..8).map(|_| ctx.db.acquire());
    futures_util::future::try_join_all(connections).await?;
    Ok("bought")
}

/// Serves until its standard input ends.
#[expect(
    clippy::print_stdout,
    reason = "the process that started it reads the addresses"
)]
async fn serve() {
    let app = TestApp::start_with(SystemClock::shared(), |config| {
        config.connections_per_address = PER_ADDRESS;
    })
    .await;
    let ctx = app.ctx.clone();
    let running = app
        .serve(Routes {
            public: Router::new().route("/buy", get(async move || buy(ctx).await)),
            ..Routes::default()
        })
        .await;
    println!("\nserving {} {}", running.public_addr, running.ops_addr);
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await.unwrap();
    app.finish().await;
}

/// Starts a process with few files that runs [`serve`], and returns it with its public and its
/// operations listener.
async fn start() -> (Child, SocketAddr, SocketAddr) {
    let limited = format!("ulimit -n {FILES} && exec \"$@\"");
    let mut child = Command::new("sh")
        .args(["-c", &limited, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(SERVES, "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let addresses = timeout(Duration::from_secs(60), async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(addresses) = line.strip_prefix("serving ") {
                return addresses.to_owned();
            }
        }
        panic!("it ended before it served");
    });
    let addresses = addresses.await.unwrap();
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    let (public, ops) = addresses.split_once(' ').unwrap();
    (child, public.parse().unwrap(), ops.parse().unwrap())
}

/// Connects from 127.0.0.`from`.
async fn connect(from: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::from(([127, 0, 0, from], 0)))
        .unwrap();
    timeout(SOON, socket.connect(to)).await.unwrap().unwrap()
}

/// Sends a request for `path` on a connection; returns the status of the answer.
async fn get_on(stream: &mut TcpStream, path: &str) -> u16 {
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n");
    // A connection that was refused has its answer already.
    let _closed = stream.write_all(request.as_bytes()).await;
    let mut answer = vec![0; 4_096];
    let length = timeout(SOON, stream.read(&mut answer)).await.unwrap();
    let answer = String::from_utf8_lossy(&answer[..length.unwrap()]).into_owned();
    let status = answer.split(' ').nth(1).expect("an answer");
    status.parse().unwrap()
}

async fn status(from: u8, to: SocketAddr, path: &str) -> u16 {
    get_on(&mut connect(from, to).await, path).await
}

#[tokio::test]
async fn buyers_and_operations_go_on_when_somebody_uses_up_the_connections() {
    if std::env::var_os(SERVES).is_some() {
        return serve().await;
    }
    let (mut child, public, ops) = start().await;
    let mut buyer = connect(1, public).await;
    assert_eq!(get_on(&mut buyer, "/buy").await, 200);

    // One address opens more connections than the process may open files.
    let mut idle = Vec::new();
    for _ in 0..2 * FILES {
        idle.push(connect(2, public).await);
    }
    assert_eq!(status(2, public, "/buy").await, 429);
    assert_eq!(status(3, public, "/buy").await, 200, "a new buyer");
    assert_eq!(get_on(&mut buyer, "/buy").await, 200);

    // Many addresses do: no connection is left, and the files that are left suffice.
    for from in 10..30 {
        for _ in 0..PER_ADDRESS {
            idle.push(connect(from, public).await);
        }
    }
    assert_eq!(status(3, public, "/buy").await, 503, "an honest refusal");
    for _ in 0..20 {
        assert_eq!(status(1, ops, "/livez").await, 200);
        assert_eq!(status(1, ops, "/readyz").await, 200);
        assert_eq!(get_on(&mut buyer, "/buy").await, 200);
    }

    // It is as before when they leave.
    drop(idle);
    platform::testing::eventually(SOON, async || status(3, public, "/buy").await == 200).await;
    drop((buyer, child.stdin.take()));
    let ended = timeout(SOON, child.wait()).await.unwrap().unwrap();
    assert!(ended.success());
}
