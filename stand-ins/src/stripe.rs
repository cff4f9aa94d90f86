//! A stand-in for Stripe, faithful where it matters to a ticket seller: manual capture, idempotency
//! keys, test cards, 3-D Secure, refund caps and signed webhooks; with fault injection for the ways
//! in which a payment provider fails.
//!
//! It serves Stripe's HTTP API under [`StandIn::url`]; tests and audits read its [`Ledger`] as an
//! independent witness.

mod amounts;
mod answer;
mod api;
mod attempts;
mod auth;
mod balance;
mod calendar;
mod cards;
mod customers;
mod disputes;
mod errors;
mod events;
mod faults;
mod form;
mod idempotency;
mod ids;
mod ledger;
mod limits;
mod model;
mod operation;
mod parameters;
mod payment_intents;
mod payment_methods;
mod refunds;
mod render;
mod search;
mod updates;
mod version;
mod webhooks;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use domain::clock::{SharedClock, SystemClock};
use tokio_util::sync::CancellationToken;

pub use cards::{Behaviour, Card, Decline};
pub use events::SentEvent;
pub use faults::{ApiFault, ApiFaults, WebhookFault, WebhookFaults};
pub use ledger::Ledger;
pub use limits::{RateLimits, Requests};
pub use model::{
    CaptureMethod, Charge, Customer, Dispute, DisputeStatus, FailedAttempt, FutureUsage,
    PaymentIntent, PaymentMethod, Refund, RefundStatus, Status,
};
pub use operation::Operation;
pub use webhooks::{Deliveries, Retry, StillPending, Webhooks};

use crate::listen::Server;

/// Settings of a stand-in. The default listens on any free loopback port, with random keys.
#[derive(Clone)]
pub struct Config {
    /// Address; port 0 for any free one.
    pub address: SocketAddr,
    /// `sk_test_…`; random by default.
    pub secret_key: Option<String>,
    /// `pk_test_…`; random by default.
    pub publishable_key: Option<String>,
    /// `whsec_…`; random by default.
    pub webhook_secret: Option<String>,
    /// Initial webhook endpoints.
    pub webhook_urls: Vec<String>,
    /// Initially enabled event types; `*` for all.
    pub webhook_events: Vec<String>,
    /// Retry schedule of deliveries.
    pub webhook_retry: Retry,
    /// Delay of refunds to cards whose refunds stay pending.
    pub refund_settles_after: Duration,
    /// Maximum number of objects; beyond it new ones are refused.
    pub max_objects: usize,
    /// Seed of the faults' probabilities.
    pub seed: u64,
    /// Source of time.
    pub clock: SharedClock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            secret_key: None,
            publishable_key: None,
            webhook_secret: None,
            webhook_urls: Vec::new(),
            webhook_events: vec!["*".to_owned()],
            webhook_retry: Retry::default(),
            refund_settles_after: Duration::from_millis(200),
            max_objects: 1_000_000,
            seed: 0,
            clock: SystemClock::shared(),
        }
    }
}

/// A stand-in could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// Cause.
        source: std::io::Error,
    },
    /// The client that delivers webhooks cannot be set up.
    #[error("cannot set up the webhook client")]
    Client(#[from] reqwest::Error),
}

/// A running stand-in; dropping it stops it.
pub struct StandIn {
    server: Server,
    keys: auth::Keys,
    webhook_secret: String,
    ledger: Arc<Ledger>,
    faults: Arc<ApiFaults>,
    limits: Arc<limits::Limits>,
    webhooks: Webhooks,
}

impl StandIn {
    /// Starts a stand-in in this process.
    ///
    /// # Errors
    /// [`StartError`] if the address cannot be listened on.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let stop = CancellationToken::new();
        let keys = auth::Keys {
            secret: config
                .secret_key
                .unwrap_or_else(|| ids::random("sk_test_", 24)),
            publishable: config
                .publishable_key
                .unwrap_or_else(|| ids::random("pk_test_", 24)),
        };
        let webhook_secret = config
            .webhook_secret
            .unwrap_or_else(|| ids::random("whsec_", 32));
        let webhooks = Webhooks::new(
            webhook_secret.clone(),
            Arc::clone(&config.clock),
            config.webhook_retry,
            config.seed,
            stop.clone(),
        )?;
        webhooks.set_urls(config.webhook_urls);
        webhooks.enable_events(config.webhook_events);
        let faults = Arc::new(ApiFaults::new(config.seed));
        let limits = Arc::<limits::Limits>::default();
        // The ledger needs the bound address.
        let ledger = OnceLock::new();
        let router = |bound: SocketAddr| {
            let opened = Ledger::new(config.clock, format!("http://{bound}"), config.max_objects);
            let ledger = ledger.get_or_init(|| Arc::new(opened));
            api::router(Arc::new(api::Api {
                ledger: Arc::clone(ledger),
                keys: keys.clone(),
                used_keys: idempotency::UsedKeys::default(),
                faults: Arc::clone(&faults),
                limits: Arc::clone(&limits),
                webhooks: webhooks.clone(),
                refund_settles_after: config.refund_settles_after,
                stop: stop.clone(),
            }))
        };
        let server = Server::start(config.address, stop.clone(), router)
            .await
            .map_err(|source| StartError::Listen {
                address: config.address,
                source,
            })?;
        let ledger = ledger.into_inner().expect("the server has made its router");
        tokio::spawn(
            stop.run_until_cancelled_owned(calendar::follow(Arc::clone(&ledger), webhooks.clone())),
        );
        Ok(Self {
            server,
            keys,
            webhook_secret,
            ledger,
            faults,
            limits,
            webhooks,
        })
    }

    /// Base URL, `http://127.0.0.1:PORT`, to use in place of Stripe's.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Key of the account's servers.
    pub fn secret_key(&self) -> &str {
        &self.keys.secret
    }

    /// Key of buyers' browsers.
    pub fn publishable_key(&self) -> &str {
        &self.keys.publishable
    }

    /// Key that signs webhooks.
    pub fn webhook_secret(&self) -> &str {
        &self.webhook_secret
    }

    /// The books: true charges and refunds.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Injected faults of calls.
    pub fn faults(&self) -> &ApiFaults {
        &self.faults
    }

    /// Pays out the whole balance. From then on a refund that the balance does not cover is
    /// `pending` until captures or [`top_up`](Self::top_up) cover it.
    pub fn pay_out(&self) {
        self.ledger.open().balance = Some(BTreeMap::new());
    }

    /// Adds to the balance, in the currency's smallest unit, and settles refunds waiting for it.
    pub fn top_up(&self, currency: &str, amount: i64) {
        let news = {
            let mut books = self.ledger.open();
            balance::add(&mut books, currency, amount);
            books.take_news()
        };
        self.webhooks.publish(news, "", None);
    }

    /// Sets the rate limits of requests with the secret key; `None` lifts them.
    pub fn set_rate_limits(&self, limits: Option<RateLimits>) {
        self.limits.set(limits);
    }

    /// Counts of requests with the secret key.
    pub fn requests(&self) -> Requests {
        self.limits.requests()
    }

    /// Webhook deliveries and their faults.
    pub fn webhooks(&self) -> &Webhooks {
        &self.webhooks
    }

    /// Replaces the webhook endpoints by this one.
    pub fn set_webhook_url(&self, url: impl Into<String>) {
        self.webhooks.set_urls(vec![url.into()]);
    }

    /// Waits until no delivery is pending.
    ///
    /// # Errors
    /// [`StillPending`] after `patience`.
    pub async fn wait_until_delivered(&self, patience: Duration) -> Result<(), StillPending> {
        self.webhooks.wait_until_delivered(patience).await
    }
}
