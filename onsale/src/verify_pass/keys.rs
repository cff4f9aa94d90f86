//! An in-memory cache of the published keys: loaded at the start, refreshed periodically, and when
//! a pass names an unknown key (rate-limited, single-flight).

use std::path::PathBuf;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, Utc};
use domain::EventId;
use domain::clock::SharedClock;
use domain::token::PassClaims;
use platform::egress;
use platform::sync::RwLockExt as _;
use platform::tokens::{PublishedKeys, TokenError};
use tokio::sync::Mutex;
use tokio::time::Instant;
use url::Url;

use crate::warn;

/// Refresh period. A new key is found sooner, by the first pass it signed.
const REFRESH: Duration = Duration::from_secs(300);
/// Least time between two refreshes for unknown keys, since anybody can name one.
const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(5);
const READ_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_JWKS_BYTES: usize = 64 * 1024;

#[derive(Debug)]
pub(super) enum Source {
    Url(Url),
    File(PathBuf),
}

impl Source {
    /// Parses an http or https URL, or else the path of a file.
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        match Url::parse(text) {
            Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(Self::Url(url)),
            _ if text.contains("://") => bail!("--jwks must be http://, https:// or a file"),
            _ => Ok(Self::File(text.into())),
        }
    }

    /// The URL of `path` on the host that publishes the keys; `None` for a file.
    pub(super) fn beside(&self, path: &str) -> Option<Url> {
        match self {
            Self::Url(url) => url.join(path).ok(),
            Self::File(_) => None,
        }
    }

    async fn read(&self, client: &reqwest::Client) -> anyhow::Result<PublishedKeys> {
        let bytes = match self {
            Self::File(path) => tokio::fs::read(path)
                .await
                .with_context(|| format!("can't read {}", path.display()))?,
            Self::Url(url) => fetch(client, url)
                .await
                .with_context(|| format!("can't read {url}"))?,
        };
        PublishedKeys::parse(&bytes).context("the keys of the passes")
    }
}

async fn fetch(client: &reqwest::Client, url: &Url) -> anyhow::Result<Vec<u8>> {
    let mut response = client.get(url.clone()).send().await?.error_for_status()?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        ensure!(
            bytes.len() + chunk.len() <= MAX_JWKS_BYTES,
            "more than {MAX_JWKS_BYTES} bytes"
        );
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// The keys and their source. A failed refresh keeps the previous keys (stale-if-error).
pub(super) struct Keys {
    source: Source,
    client: reqwest::Client,
    clock: SharedClock,
    known: RwLock<Arc<PublishedKeys>>,
    /// Time of the last refresh; locked during one, which makes refreshes single-flight.
    asked: Mutex<Option<Instant>>,
}

impl Keys {
    /// Loads the keys.
    pub(super) async fn load(source: Source, clock: SharedClock) -> anyhow::Result<Self> {
        let mut client = reqwest::Client::builder()
            .timeout(READ_TIMEOUT)
            // Keys come from the configured source only.
            .redirect(reqwest::redirect::Policy::none());
        if !matches!(&source, Source::Url(url) if egress::may_use_proxy(url)) {
            client = client.no_proxy();
        }
        let client = client.build()?;
        let known = source.read(&client).await?;
        Ok(Self {
            source,
            client,
            clock,
            known: RwLock::new(Arc::new(known)),
            asked: Mutex::default(),
        })
    }

    /// Refreshes the keys periodically, until dropped.
    pub(super) async fn follow(&self) {
        loop {
            tokio::time::sleep(REFRESH).await;
            let mut asked = self.asked.lock().await;
            self.read(&mut asked).await;
        }
    }

    /// Returns the claims of a valid pass.
    pub(super) async fn verify(&self, pass: &str, sale: EventId) -> Result<PassClaims, TokenError> {
        let now = self.clock.now();
        match self.try_verify(pass, sale, now) {
            Err(TokenError::UnknownKey) => {
                self.read_for_unknown_key().await;
                self.try_verify(pass, sale, now)
            }
            outcome => outcome,
        }
    }

    fn try_verify(
        &self,
        pass: &str,
        sale: EventId,
        now: DateTime<Utc>,
    ) -> Result<PassClaims, TokenError> {
        let known = Arc::clone(&self.known.read_unpoisoned());
        known.verify_pass(pass, sale, now)
    }

    async fn read_for_unknown_key(&self) {
        let mut asked = self.asked.lock().await;
        if asked.is_none_or(|last| last.elapsed() >= UNKNOWN_KEY_PAUSE) {
            self.read(&mut asked).await;
        }
    }

    async fn read(&self, asked: &mut Option<Instant>) {
        *asked = Some(Instant::now());
        match self.source.read(&self.client).await {
            Ok(keys) => {
                *self.known.write_unpoisoned() = Arc::new(keys);
            }
            Err(error) => warn(format_args!("the keys were not refreshed: {error:#}")),
        }
    }
}
