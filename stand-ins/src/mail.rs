//! A stand-in for a mail server: real SMTP towards the sender, an [`Inbox`] for tests and audits,
//! and pages for visitors of the demo.

mod faults;
mod message;
mod page;
mod session;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use faults::{MailFault, MailFaults};
pub use message::{Attachment, Mail};

use crate::inbox::{Full, Inbox, Limit};
use crate::listen::Server;

/// Maximum number of concurrent sessions; further clients wait for their greeting.
const MAX_SESSIONS: usize = 256;

/// Settings of a mail server. The default listens on free loopback ports.
#[derive(Clone, Debug)]
pub struct Config {
    /// SMTP address; port 0 for any free one.
    pub smtp_address: SocketAddr,
    /// HTTP address of the pages; port 0 for any free one.
    pub page_address: SocketAddr,
    /// Existing directory to which each mail is written as `NUMBER.eml`.
    pub folder: Option<PathBuf>,
    /// Maximum size of a mail, in bytes.
    pub max_message_bytes: usize,
    /// Capacity of the inbox; beyond it mails are refused with 452.
    pub limit: Limit,
    /// Seed of the faults' probabilities.
    pub seed: u64,
    /// Simulated network latency of replies.
    pub round_trip: Duration,
    /// Requires clients to greet with a fully qualified name, as many servers do.
    pub wants_full_names: bool,
}

impl Default for Config {
    fn default() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            smtp_address: any,
            page_address: any,
            folder: None,
            max_message_bytes: 10 << 20,
            limit: Limit::default(),
            seed: 0,
            round_trip: Duration::ZERO,
            wants_full_names: false,
        }
    }
}

/// A mail server could not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct StartError {
    address: SocketAddr,
    source: io::Error,
}

/// A mail could not be stored.
#[derive(Debug, thiserror::Error)]
enum StoreError {
    #[error("no room")]
    Full(#[from] Full),
    #[error("cannot write the file")]
    Write(#[from] io::Error),
}

/// State shared by all sessions.
struct Shared {
    inbox: Inbox<Mail>,
    faults: MailFaults,
    folder: Option<PathBuf>,
    max_message_bytes: usize,
    round_trip: Duration,
    wants_full_names: bool,
}

impl Shared {
    /// Stores a mail and returns its number.
    async fn store(&self, mail: Mail) -> Result<usize, StoreError> {
        let mail = Arc::new(mail);
        let number = self.inbox.store(Arc::clone(&mail))?;
        if let Some(folder) = &self.folder {
            tokio::fs::write(folder.join(format!("{number}.eml")), &mail.raw).await?;
        }
        Ok(number)
    }
}

/// A running mail server; dropping it stops it.
pub struct StandIn {
    smtp_address: SocketAddr,
    page: Server,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

impl StandIn {
    /// Starts a mail server in this process.
    ///
    /// # Errors
    /// [`StartError`] if one of the addresses cannot be listened on.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let at = |address| move |source| StartError { address, source };
        let listener = TcpListener::bind(config.smtp_address)
            .await
            .map_err(at(config.smtp_address))?;
        let smtp_address = listener.local_addr().map_err(at(config.smtp_address))?;
        let shared = Arc::new(Shared {
            inbox: Inbox::new(config.limit),
            faults: MailFaults::new(config.seed),
            folder: config.folder,
            max_message_bytes: config.max_message_bytes,
            round_trip: config.round_trip,
            wants_full_names: config.wants_full_names,
        });
        let stop = CancellationToken::new();
        let inbox = shared.inbox.clone();
        let page = Server::start(config.page_address, stop.child_token(), |_| {
            page::router(inbox)
        })
        .await
        .map_err(at(config.page_address))?;
        tokio::spawn(accept(listener, Arc::clone(&shared), stop.clone()));
        Ok(Self {
            smtp_address,
            page,
            shared,
            stop,
        })
    }

    /// Bound SMTP address.
    pub fn smtp_address(&self) -> SocketAddr {
        self.smtp_address
    }

    /// SMTP URL, `smtp://127.0.0.1:PORT`.
    pub fn smtp_url(&self) -> String {
        format!("smtp://{}", self.smtp_address)
    }

    /// URL of the pages, `http://127.0.0.1:PORT`.
    pub fn page_url(&self) -> String {
        self.page.url()
    }

    /// Received mails.
    pub fn inbox(&self) -> &Inbox<Mail> {
        &self.shared.inbox
    }

    /// Injected faults.
    pub fn faults(&self) -> &MailFaults {
        &self.shared.faults
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_SESSIONS));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (
                listener.accept().await,
                place.expect("the semaphore is never closed"),
            )
        };
        let Some((accepted, place)) = stop.run_until_cancelled(next).await else {
            return;
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "failed to accept an SMTP connection");
                // Most likely out of file descriptors: wait for some to be closed.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let session = session::Session::new(stream, Arc::clone(&shared));
        let stop = stop.clone();
        tokio::spawn(async move {
            if let Some(Err(error)) = stop.run_until_cancelled(session.run()).await {
                tracing::debug!(%error, "SMTP session failed");
            }
            drop(place);
        });
    }
}
