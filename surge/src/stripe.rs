//! A stand-in for Stripe that behaves like Stripe where it matters to a ticket seller: manual
//! capture, idempotency keys, test cards, 3-D Secure, refund caps and signed webhooks; and that
//! fails on demand in the ways a payment provider fails.
//!
//! It speaks Stripe's HTTP API under [`StandIn::url`], and lets tests and audits read its
//! [`Ledger`] as an independent witness.

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

/// How a stand-in is set up. The default listens on any free loopback port, with fresh keys.
#[derive(Clone)]
pub struct Config {
    /// Where to listen; port 0 means any free one.
    pub address: SocketAddr,
    /// `sk_test_…`; made up if absent.
    pub secret_key: Option<String>,
    /// `pk_test_…`; made up if absent.
    pub publishable_key: Option<String>,
    /// `whsec_…`; made up if absent.
    pub webhook_secret: Option<String>,
    /// Where events go at first.
    pub webhook_urls: Vec<String>,
    /// The types of events that are sent at first; `*` means all.
    pub webhook_events: Vec<String>,
    /// How deliveries are retried.
    pub webhook_retry: Retry,
    /// How long the refunds of the late cards take.
    pub refund_settles_after: Duration,
    /// Objects kept in all; beyond that new ones are refused.
    pub max_objects: usize,
    /// Where the chances of faults are drawn from.
    pub seed: u64,
    /// Where the time comes from.
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
        /// The address asked for.
        address: SocketAddr,
        /// Why not.
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
        // The ledger needs the address, which is known only once the server is bound.
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

    /// `http://127.0.0.1:PORT`, to be given to a Stripe client instead of Stripe's address.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The key the account's own servers use.
    pub fn secret_key(&self) -> &str {
        &self.keys.secret
    }

    /// The key buyers' browsers use.
    pub fn publishable_key(&self) -> &str {
        &self.keys.publishable
    }

    /// The key the webhooks are signed with.
    pub fn webhook_secret(&self) -> &str {
        &self.webhook_secret
    }

    /// The books: what was really charged and given back.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// What goes wrong with calls.
    pub fn faults(&self) -> &ApiFaults {
        &self.faults
    }

    /// Pays the whole balance out. From now on a refund that the balance does not cover is
    /// `pending` until captures or [`top_up`](Self::top_up) have filled it again.
    pub fn pay_out(&self) {
        self.ledger.open().balance = Some(BTreeMap::new());
    }

    /// Adds to the balance, in the currency's smallest unit, and settles refunds that waited.
    pub fn top_up(&self, currency: &str, amount: i64) {
        let news = {
            let mut books = self.ledger.open();
            balance::add(&mut books, currency, amount);
            books.take_news()
        };
        self.webhooks.publish(news, "", None);
    }

    /// From now on takes only so many requests with the secret key; `None` takes all.
    pub fn set_rate_limits(&self, limits: Option<RateLimits>) {
        self.limits.set(limits);
    }

    /// The requests with the secret key so far.
    pub fn requests(&self) -> Requests {
        self.limits.requests()
    }

    /// The webhooks, and what goes wrong with them.
    pub fn webhooks(&self) -> &Webhooks {
        &self.webhooks
    }

    /// Sends every event from now on to this address alone.
    pub fn set_webhook_url(&self, url: impl Into<String>) {
        self.webhooks.set_urls(vec![url.into()]);
    }

    /// Waits until no webhook is on its way.
    ///
    /// # Errors
    /// [`StillPending`] if some still are after `patience`.
    pub async fn wait_until_delivered(&self, patience: Duration) -> Result<(), StillPending> {
        self.webhooks.wait_until_delivered(patience).await
    }
}
