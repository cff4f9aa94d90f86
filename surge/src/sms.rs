//! A stand-in for an SMS provider with Twilio's HTTP API.

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

/// A short message as it was received.
#[derive(Clone, Debug)]
pub struct Sms {
    /// `SM…`, as answered to the sender.
    pub sid: String,
    /// The sender's number, in E.164.
    pub from: String,
    /// The recipient's number, in E.164.
    pub to: String,
    /// The text.
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

/// What goes wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SmsFault {
    /// 429, the message is not taken.
    RateLimit,
    /// 500, the message is not taken.
    ServerError,
    /// The answer comes so much later; the message is taken first.
    Delay {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// The message is taken, and the connection breaks without an answer.
    AcceptThenCut,
}

/// Faults by recipient number.
pub type SmsFaults = Faults<String, SmsFault>;

/// How a provider is set up. The default listens on any free loopback port.
#[derive(Clone)]
pub struct Config {
    /// Where to listen; port 0 means any free one.
    pub address: SocketAddr,
    /// How much is kept; beyond that messages are refused with 429.
    pub limit: Limit,
    /// Where the chances of faults are drawn from.
    pub seed: u64,
    /// Where the time comes from.
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

/// What all requests share.
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

    /// `http://127.0.0.1:PORT`, to be used instead of Twilio's address.
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// The account, `AC…`: the user name.
    pub fn account_sid(&self) -> &str {
        &self.shared.account_sid
    }

    /// The account's token: the password.
    pub fn auth_token(&self) -> &str {
        &self.shared.auth_token
    }

    /// What has been received.
    pub fn inbox(&self) -> &Inbox<Sms> {
        &self.shared.inbox
    }

    /// What goes wrong.
    pub fn faults(&self) -> &SmsFaults {
        &self.shared.faults
    }
}

/// An id as Twilio makes them: a prefix and 32 hexadecimal digits.
fn sid(prefix: &str) -> String {
    format!("{prefix}{:032x}", rand::rng().random::<u128>())
}
