//! The baseline: plain axum handlers that do nothing, in a process of their own as Onsale is.

use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::Context as _;
use axum::Router;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::say;
use super::wire::{Response, headers};

#[derive(clap::Args)]
pub(crate) struct Args {}

/// A canned response.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Canned {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Canned {
    /// Copies `answer` byte for byte, except for headers that the server writes itself.
    pub(super) fn of(answer: &Response<'_>) -> anyhow::Result<Self> {
        let own = ["content-length", "date", "connection"];
        Ok(Self {
            headers: headers(std::str::from_utf8(answer.head)?)
                .filter(|(name, _)| !name.is_empty() && !own.contains(name))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            body: answer.body.to_vec(),
        })
    }

    fn headers(&self) -> anyhow::Result<HeaderMap> {
        let mut map = HeaderMap::new();
        for (name, value) in &self.headers {
            map.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        Ok(map)
    }
}

/// Serves the response on stdin until killed; prints the address as the first line.
pub(crate) async fn run(_: Args) -> anyhow::Result<()> {
    let canned: Canned = serde_json::from_reader(std::io::stdin().lock())?;
    let (headers, body) = (canned.headers()?, bytes::Bytes::from(canned.body));
    let answer = move || std::future::ready((headers.clone(), body.clone()));
    let routes = Router::new()
        .route("/api/events/{id}/queue/me", get(answer.clone()))
        .route("/api/events/{id}/availability", get(answer.clone()))
        .route("/api/events/{id}/seats", get(answer))
        .route("/api/events/{id}/queue", post(async || StatusCode::CREATED))
        .route("/api/events/{id}/pass", post(async || StatusCode::CREATED));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(listener.local_addr()?);
    axum::serve(listener, routes).await?;
    Ok(())
}

/// A running `surge bare`; dropping it ends it.
pub(super) struct Bare {
    pub(super) address: SocketAddr,
    pub(super) pid: u32,
    _child: Child,
}

impl Bare {
    /// Starts one that answers GET with `canned` and POST with an empty 201.
    pub(super) async fn start(canned: &Canned) -> anyhow::Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("bare")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting the bare handlers")?;
        let mut stdin = child.stdin.take().context("no input")?;
        stdin.write_all(&serde_json::to_vec(canned)?).await?;
        drop(stdin);
        let stdout = child.stdout.take().context("no output")?;
        let line = BufReader::new(stdout).lines().next_line().await?;
        Ok(Self {
            address: line.context("the bare handlers did not start")?.parse()?,
            pid: child.id().context("the bare handlers ended")?,
            _child: child,
        })
    }
}
