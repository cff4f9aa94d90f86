//! A stand-in for an SMS provider, with Twilio's HTTP API.

mod api;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use domain::clock::{SharedClock, SystemClock};
use rand::Rng;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::faults::Faults;
use crate::inbox::{Addressed, Inbox, Limit};
use crate::listen::Server;

/// A received short message.
#[derive(Clone, Debug)]
pub struct Sms {
    /// `SM…`, as returned to the sender.
    pub sid: String,
    /// Sender's number, in E.164.
    pub from: String,
    /// Recipient's number, in E.164.
    pub to: String,
    /// Text of the message.
    pub body: String,
}

impl Addressed for Sms {
    fn is_to(&self, address: &str) -> bool {
        self.to == address
    }

    fn size(&self) -> usize {
        self.sid.len() + self.from.len() + self.to.len() + self.body.len()
    }
}

/// A fault of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SmsFault {
    /// Answers 429 without accepting the message.
    RateLimit,
    /// Answers 500 without accepting the message.
    ServerError,
    /// Accepts the message and delays the response.
    Delay {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// Accepts the message and cuts the connection without a response.
    AcceptThenCut,
}

/// Faults by recipient number.
pub type SmsFaults = Faults<String, SmsFault>;

/// Settings of a provider. The default listens on any free loopback port.
#[derive(Clone)]
pub struct Config {
    /// Address; port 0 for any free one.
    pub address: SocketAddr,
    /// Capacity of the inbox; beyond it messages are refused with 429.
    pub limit: Limit,
    /// Seed of the faults' probabilities.
    pub seed: u64,
    /// Source of time.
    pub clock: SharedClock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            limit: Limit::default(),
            seed: 0,
            clock: SystemClock::shared(),
        }
    }
}

/// A provider could not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct StartError {
    address: SocketAddr,
    source: std::io::Error,
}

/// A running provider; dropping it stops it.
pub struct StandIn {
    server: Server,
    shared: Arc<Shared>,
}

/// State shared by all requests.
struct Shared {
    account_sid: String,
    auth_token: String,
    inbox: Inbox<Sms>,
    faults: SmsFaults,
    clock: SharedClock,
    stop: CancellationToken,
}

impl StandIn {
    /// Starts a provider in this process, with fresh credentials.
    ///
    /// # Errors
    /// [`StartError`] if the address cannot be listened on.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            account_sid: sid("AC"),
            auth_token: sid(""),
            inbox: Inbox::new(config.limit),
            faults: SmsFaults::new(config.seed),
            clock: config.clock,
            stop: stop.clone(),
        });
        let router = api::router(Arc::clone(&shared));
        let server = Server::start(config.address, stop, |_| router)
            .await
            .map_err(|source| StartError {
                address: config.address,
                source,
            })?;
        Ok(Self { server, shared })
    }

    /// Base URL, `http://127.0.0.1:PORT`, to use in place of Twilio's.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Account SID, `AC…`: the user name.
    pub fn account_sid(&self) -> &str {
        &self.shared.account_sid
    }

    /// Auth token: the password.
    pub fn auth_token(&self) -> &str {
        &self.shared.auth_token
    }

    /// Received messages.
    pub fn inbox(&self) -> &Inbox<Sms> {
        &self.shared.inbox
    }

    /// Injected faults.
    pub fn faults(&self) -> &SmsFaults {
        &self.shared.faults
    }
}

/// Returns an id in Twilio's format: a prefix and 32 hexadecimal digits.
fn sid(prefix: &str) -> String {
    format!("{prefix}{:032x}", rand::rng().random::<u128>())
}
