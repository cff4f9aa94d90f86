//! Webhook delivery: signed events, sent to every endpoint with exponential backoff.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use domain::clock::SharedClock;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::events::{EventLog, SentEvent};
use super::faults::{WebhookFault, WebhookFaults, delay};
use super::ledger::News;

/// Bound on concurrent deliveries.
const CONCURRENT: usize = 128;
/// Bound on pending deliveries; further ones count as lost.
const MAX_PENDING: u64 = 100_000;
/// Timeout of a delivery.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Polling period of the clock by a delivery waiting for its next attempt.
const LOOK_AT_CLOCK: Duration = Duration::from_millis(50);

/// Retry schedule of deliveries.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Maximum number of attempts.
    pub attempts: u32,
    /// First pause; each later one doubles.
    pub first_pause: Duration,
    /// Cap of the pause.
    pub longest_pause: Duration,
    /// Pauses pass on the stand-in's clock, which a test can advance.
    pub on_clock: bool,
}

impl Retry {
    /// Stripe's schedule in live mode: for three days, minutes to half a day apart. A receiver that
    /// relies on redelivery waits for it as long as with Stripe.
    #[must_use]
    pub fn like_stripe() -> Self {
        Self {
            attempts: 13,
            first_pause: Duration::from_secs(5 * 60),
            longest_pause: Duration::from_secs(12 * 60 * 60),
            on_clock: true,
        }
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 12,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(10),
            on_clock: false,
        }
    }
}

/// Counts of deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// Waiting or in flight.
    pub pending: u64,
    /// Answered 2xx.
    pub delivered: u64,
    /// Failed after the last attempt.
    pub given_up: u64,
    /// Lost by a fault, or because too many were pending.
    pub lost: u64,
}

/// A wait for deliveries timed out.
#[derive(Debug, thiserror::Error)]
#[error("{0} webhooks are still on their way")]
pub struct StillPending(pub u64);

/// Webhooks of a stand-in.
#[derive(Clone)]
pub struct Webhooks(Arc<Inner>);

struct Inner {
    secret: String,
    clock: SharedClock,
    retry: Retry,
    http: reqwest::Client,
    faults: WebhookFaults,
    urls: Mutex<Vec<String>>,
    /// Enabled event types; `None` for all.
    enabled: Mutex<Option<Vec<String>>>,
    events: Mutex<EventLog>,
    deliveries: watch::Sender<Deliveries>,
    slots: Semaphore,
    stop: CancellationToken,
}

impl Webhooks {
    pub(crate) fn new(
        secret: String,
        clock: SharedClock,
        retry: Retry,
        seed: u64,
        stop: CancellationToken,
    ) -> Result<Self, reqwest::Error> {
        crate::tls::install();
        let http = reqwest::Client::builder()
            .timeout(ANSWER_TIMEOUT)
            .no_proxy()
            .build()?;
        Ok(Self(Arc::new(Inner {
            secret,
            clock,
            retry,
            http,
            faults: WebhookFaults::new(seed),
            urls: Mutex::default(),
            enabled: Mutex::default(),
            events: Mutex::default(),
            deliveries: watch::Sender::default(),
            slots: Semaphore::new(CONCURRENT),
            stop,
        })))
    }

    /// Replaces the endpoints. Pending retries go to the endpoint in the same position.
    pub fn set_urls(&self, urls: Vec<String>) {
        *lock(&self.0.urls) = urls;
    }

    /// Enables only these event types, as endpoints at Stripe subscribe to some; others are still
    /// listed. `*` enables all.
    pub fn enable_events<T: Into<String>>(&self, kinds: impl IntoIterator<Item = T>) {
        let kinds: Vec<String> = kinds.into_iter().map(Into::into).collect();
        let is_all = kinds.iter().any(|kind| kind == "*");
        *lock(&self.0.enabled) = (!is_all).then_some(kinds);
    }

    /// Injected faults.
    pub fn faults(&self) -> &WebhookFaults {
        &self.0.faults
    }

    /// Returns the latest events, oldest first, including lost and disabled ones.
    pub fn events(&self) -> Vec<SentEvent> {
        self.log().iter().cloned().collect()
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, EventLog> {
        lock(&self.0.events)
    }

    /// Redelivers an event, freshly signed; `false` if it was evicted.
    pub fn resend(&self, event_id: &str) -> bool {
        let event = self.log().get(event_id).cloned();
        let Some(event) = event else { return false };
        for endpoint in 0..self.endpoints() {
            self.dispatch(endpoint, &event, Duration::ZERO);
        }
        true
    }

    /// Returns the counts of deliveries.
    pub fn deliveries(&self) -> Deliveries {
        *self.0.deliveries.borrow()
    }

    /// Waits until no delivery is pending.
    ///
    /// # Errors
    /// [`StillPending`] after `patience`.
    pub async fn wait_until_delivered(&self, patience: Duration) -> Result<(), StillPending> {
        let mut deliveries = self.0.deliveries.subscribe();
        let settled = deliveries.wait_for(|deliveries| deliveries.pending == 0);
        match tokio::time::timeout(patience, settled).await {
            Ok(_) => Ok(()),
            Err(_) => Err(StillPending(self.deliveries().pending)),
        }
    }

    /// Logs changes as events and delivers them.
    pub(crate) fn publish(&self, news: Vec<News>, request_id: &str, key: Option<&str>) {
        let endpoints = self.endpoints();
        let created = self.0.clock.now().timestamp();
        for news in news {
            let receivers = if self.is_enabled(news.kind) {
                endpoints
            } else {
                0
            };
            let event = SentEvent::new(&news, created, receivers, request_id, key);
            for endpoint in 0..receivers {
                self.send(endpoint, &event);
            }
            self.log().add(event);
        }
    }

    fn is_enabled(&self, kind: &str) -> bool {
        let enabled = lock(&self.0.enabled);
        enabled
            .as_ref()
            .is_none_or(|kinds| kinds.iter().any(|enabled| enabled == kind))
    }

    fn endpoints(&self) -> usize {
        lock(&self.0.urls).len()
    }

    fn send(&self, endpoint: usize, event: &SentEvent) {
        let faults = &self.0.faults;
        match faults.pick(&event.kind, |_| true) {
            None => self.dispatch(endpoint, event, Duration::ZERO),
            Some(WebhookFault::Lost) => {
                self.0
                    .deliveries
                    .send_modify(|deliveries| deliveries.lost += 1);
            }
            Some(WebhookFault::Duplicated { copies }) => {
                for _ in 0..copies {
                    self.dispatch(endpoint, event, Duration::ZERO);
                }
            }
            Some(WebhookFault::Delayed { milliseconds }) => {
                self.dispatch(endpoint, event, delay(milliseconds));
            }
            Some(WebhookFault::Reordered {
                within_milliseconds,
            }) => {
                let wait = delay(within_milliseconds).mul_f64(faults.draw(1.0));
                self.dispatch(endpoint, event, wait);
            }
        }
    }

    fn dispatch(&self, endpoint: usize, event: &SentEvent, wait: Duration) {
        let mut accepted = false;
        self.0.deliveries.send_modify(|deliveries| {
            accepted = deliveries.pending < MAX_PENDING;
            if accepted {
                deliveries.pending += 1;
            } else {
                deliveries.lost += 1;
            }
        });
        if !accepted {
            return;
        }
        let (inner, body) = (Arc::clone(&self.0), event.body.clone());
        tokio::spawn(async move {
            let delivery = async {
                inner.faults.delay(wait).await;
                inner.deliver(endpoint, &body).await
            };
            let delivered = inner
                .stop
                .run_until_cancelled(delivery)
                .await
                .unwrap_or(false);
            inner.deliveries.send_modify(|deliveries| {
                deliveries.pending -= 1;
                if delivered {
                    deliveries.delivered += 1;
                } else {
                    deliveries.given_up += 1;
                }
            });
        });
    }
}

impl Inner {
    async fn deliver(&self, endpoint: usize, body: &Bytes) -> bool {
        let mut pause = self.retry.first_pause;
        for attempt in 1..=self.retry.attempts {
            // Read per attempt: a restarted receiver may have another address.
            let url = lock(&self.urls).get(endpoint).cloned();
            let Some(url) = url else { return false };
            let began = self.clock.now();
            if self.attempt(&url, body).await {
                return true;
            }
            if attempt < self.retry.attempts {
                self.wait(began, pause).await;
                pause = (pause * 2).min(self.retry.longest_pause);
            }
        }
        tracing::warn!(endpoint, "webhook delivery failed after the last attempt");
        false
    }

    /// Waits for the pause after an attempt that `began` then.
    async fn wait(&self, began: DateTime<Utc>, pause: Duration) {
        if !self.retry.on_clock {
            return tokio::time::sleep(pause).await;
        }
        let until = began + pause;
        while self.clock.now() < until {
            tokio::time::sleep(LOOK_AT_CLOCK).await;
        }
    }

    async fn attempt(&self, url: &str, body: &Bytes) -> bool {
        let _slot = self
            .slots
            .acquire()
            .await
            .expect("the semaphore is never closed");
        let signature = sign(&self.secret, self.clock.now().timestamp(), body);
        let request = self
            .http
            .post(url)
            .header("content-type", "application/json; charset=utf-8")
            .header(
                "user-agent",
                "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            )
            .header("stripe-signature", signature)
            .body(body.clone());
        match request.send().await {
            Ok(answer) if answer.status().is_success() => true,
            Ok(answer) => {
                tracing::debug!(url, status = answer.status().as_u16(), "webhook refused");
                false
            }
            Err(error) => {
                tracing::debug!(url, %error, "webhook delivery failed");
                false
            }
        }
    }
}

/// Returns Stripe's signature of `body` at `timestamp` (Unix seconds), `t=…,v1=…`.
fn sign(secret: &str, timestamp: i64, body: &[u8]) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(format!("{timestamp}.").as_bytes());
    mac.update(body);
    format!("t={timestamp},v1={:x}", mac.finalize().into_bytes())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while this is locked")
}
