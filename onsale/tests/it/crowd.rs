//! Simulated people who join one sale, poll after `poll_after_ms`, and claim as soon as called.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use domain::AccountId;
use domain::account::Role;
use domain::clock::{Clock as _, SystemClock};
use domain::token::{ACCESS_AUDIENCE, AccessClaims, ISSUER};
use platform::tokens::KeyRing;
use reqwest::{Client, Method, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::system::System;

/// Pause before a request that failed is retried.
const AGAIN: Duration = Duration::from_millis(200);

/// Paces the attempts of one request.
fn attempts() -> Interval {
    let mut attempts = interval(AGAIN);
    attempts.set_missed_tick_behavior(MissedTickBehavior::Delay);
    attempts
}

/// Counters of the whole crowd.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) joined: AtomicU64,
    pub(crate) polled: AtomicU64,
    /// Polls answered neither with a place nor with 429.
    pub(crate) polls_failed: AtomicU64,
    pub(crate) claimed: AtomicU64,
}

/// A sale and its addresses.
pub(crate) struct Crowd {
    http: Client,
    waiting_room: Url,
    /// Admission nodes, which take claims in turn.
    nodes: Vec<Url>,
    event: i64,
    keys: KeyRing,
    pub(crate) tally: Tally,
}

/// The outcome of one person.
#[derive(Debug)]
pub(crate) struct Person {
    pub(crate) account: i64,
    access: String,
    token: String,
    pub(crate) place: i64,
    /// Whether a busy machine kept it from polling in time, so that it counted as absent.
    pub(crate) was_late: bool,
    /// The pass.
    pub(crate) pass: Option<String>,
}

impl Crowd {
    /// A crowd that claims at `nodes`.
    pub(crate) fn new(system: &System, event: i64, nodes: Vec<Url>) -> anyhow::Result<Self> {
        let secret = system
            .environment()
            .find(|(key, _)| *key == "ONSALE_SECRET")
            .context("a secret")?;
        Ok(Self {
            http: Client::builder().timeout(Duration::from_secs(60)).build()?,
            waiting_room: system.public_url("waiting-room"),
            nodes,
            event,
            keys: KeyRing::new(&[secret.1.into()])?,
            tally: Tally::default(),
        })
    }

    /// Runs `accounts`, arriving one after the other, until `stop`.
    pub(crate) fn come(
        self: &Arc<Self>,
        accounts: std::ops::Range<i64>,
        stop: &CancellationToken,
    ) -> JoinSet<anyhow::Result<Person>> {
        let mut people = JoinSet::new();
        for account in accounts {
            let (crowd, stop) = (Arc::clone(self), stop.clone());
            people.spawn(async move {
                let mut person = crowd.join(account).await?;
                stop.run_until_cancelled(crowd.wait_and_claim(&mut person))
                    .await
                    .unwrap_or(Ok(()))?;
                Ok(person)
            });
        }
        people
    }

    /// Joins, retrying until it succeeds.
    async fn join(&self, account: i64) -> anyhow::Result<Person> {
        let access = self.access(account);
        let url = self.url(&self.waiting_room, "queue")?;
        let mut attempts = attempts();
        loop {
            attempts.tick().await;
            let asked = self.http.post(url.clone()).bearer_auth(&access);
            let answer = asked.json(&json!({})).send().await?;
            if !answer.status().is_success() {
                continue;
            }
            let answer: Value = answer.json().await?;
            self.tally.joined.fetch_add(1, Ordering::Relaxed);
            let token = answer["queue_token"].as_str().context("no queue token")?;
            return Ok(Person {
                account,
                access,
                token: token.to_owned(),
                place: answer["place"].as_i64().context("no place")?,
                was_late: false,
                pass: None,
            });
        }
    }

    /// Returns the place in the answer to joining again.
    pub(crate) async fn place_again(&self, person: &Person) -> anyhow::Result<i64> {
        Ok(self.join(person.account).await?.place)
    }

    async fn wait_and_claim(&self, person: &mut Person) -> anyhow::Result<()> {
        let url = self.url(&self.waiting_room, "queue/me")?;
        let mut polled = Instant::now();
        let mut wait = 0;
        loop {
            let (status, answer) = self.ask(Method::GET, &url, person).await?;
            // Somebody is absent after two and a half times the pause and some seconds.
            let due = Duration::from_millis(2 * wait) + Duration::from_secs(2);
            person.was_late |= polled.elapsed() > due;
            polled = Instant::now();
            wait = match status {
                StatusCode::OK => {
                    self.tally.polled.fetch_add(1, Ordering::Relaxed);
                    let answer: Value = serde_json::from_str(&answer)?;
                    ensure!(
                        answer["place"] == person.place,
                        "place {} got {answer}",
                        person.place
                    );
                    if answer["state"] == "ready" {
                        break;
                    }
                    answer["poll_after_ms"].as_u64().context("no next poll")?
                }
                StatusCode::TOO_MANY_REQUESTS => 500,
                other => {
                    self.tally.polls_failed.fetch_add(1, Ordering::Relaxed);
                    tracing::error!(%other, answer, "a poll failed");
                    500
                }
            };
            // As the page does, which polls when the answer says.
            tokio::time::sleep(Duration::from_millis(wait)).await;
        }
        person.pass = Some(self.claim(person).await?);
        self.tally.claimed.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Claims until there is a pass, failing over to another node.
    pub(crate) async fn claim(&self, person: &Person) -> anyhow::Result<String> {
        let first = usize::try_from(person.account)?;
        let mut attempts = attempts();
        for node in self.nodes.iter().cycle().skip(first) {
            attempts.tick().await;
            let url = self.url(node, "pass")?;
            match self.ask(Method::POST, &url, person).await {
                Ok((StatusCode::OK | StatusCode::CREATED, answer)) => return Ok(answer),
                Ok((StatusCode::GONE, answer)) => {
                    anyhow::bail!("place {} got {answer}", person.place)
                }
                Ok(_) | Err(_) => {}
            }
        }
        anyhow::bail!("there is no node")
    }

    /// Returns the pass.
    pub(crate) async fn give_back(&self, person: &Person) -> anyhow::Result<()> {
        let url = self.url(&self.nodes[0], "pass")?;
        let asked = self.http.delete(url).bearer_auth(&person.access);
        let answer = asked.header("onsale-pass", pass(person)?).send().await?;
        ensure!(answer.status() == StatusCode::NO_CONTENT, "{answer:?}");
        Ok(())
    }

    /// Returns the status of a booking with the pass.
    pub(crate) async fn book(&self, person: &Person) -> anyhow::Result<(StatusCode, Value)> {
        let order = json!({ "event_id": self.event, "user_id": person.account, "tickets": 1 });
        let asked = self
            .http
            .post(self.nodes[0].join("/api/bookings")?)
            .bearer_auth(&person.access)
            .header("onsale-pass", pass(person)?)
            .json(&order);
        let answer = asked.send().await?;
        Ok((answer.status(), answer.json().await?))
    }

    async fn ask(
        &self,
        method: Method,
        url: &Url,
        person: &Person,
    ) -> anyhow::Result<(StatusCode, String)> {
        let answer = self
            .http
            .request(method, url.clone())
            .bearer_auth(&person.access)
            .header("onsale-queue-token", &person.token)
            .send()
            .await?;
        Ok((answer.status(), answer.text().await?))
    }

    fn url(&self, node: &Url, what: &str) -> anyhow::Result<Url> {
        Ok(node.join(&format!("/api/events/{}/{what}", self.event))?)
    }

    fn access(&self, account: i64) -> String {
        let now = SystemClock.now().timestamp();
        self.keys.sign_access(&AccessClaims {
            iss: ISSUER.to_owned(),
            aud: ACCESS_AUDIENCE.to_owned(),
            sub: AccountId(account).to_string(),
            roles: vec![Role::Customer],
            iat: now,
            nbf: now,
            exp: now + 3_600,
        })
    }
}

/// Parses the answer to a claim.
fn pass(person: &Person) -> anyhow::Result<String> {
    let answer = person.pass.as_ref().context("no pass")?;
    let answer: Value = serde_json::from_str(answer)?;
    Ok(answer["pass"].as_str().context("no pass")?.to_owned())
}
