//! A mail server that keeps what it receives: real SMTP towards the sender, an [`Inbox`] towards
//! tests and audits, and pages for the visitor of the demo.

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

/// Conversations at once; more clients wait for their greeting.
const MAX_SESSIONS: usize = 256;

/// How a mail server is set up. The default listens on free loopback ports.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to speak SMTP; port 0 means any free one.
    pub smtp_address: SocketAddr,
    /// Where to show the mails; port 0 means any free one.
    pub page_address: SocketAddr,
    /// Where each mail is written as `NUMBER.eml`, if anywhere. The folder must exist.
    pub folder: Option<PathBuf>,
    /// The largest mail taken, in bytes.
    pub max_message_bytes: usize,
    /// How much is kept; beyond that mails are refused with 452.
    pub limit: Limit,
    /// Where the chances of faults are drawn from.
    pub seed: u64,
    /// How long answers are under way: a server at the other end of the country.
    pub round_trip: Duration,
    /// Whether clients must greet with a fully qualified name, as many servers demand.
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

/// A mail could not be kept.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("no room")]
    Full(#[from] Full),
    #[error("cannot write the file")]
    Write(#[from] io::Error),
}

/// What all conversations share.
struct Shared {
    inbox: Inbox<Mail>,
    faults: MailFaults,
    folder: Option<PathBuf>,
    max_message_bytes: usize,
    round_trip: Duration,
    wants_full_names: bool,
}

impl Shared {
    /// Keeps a mail and returns its number.
    async fn keep(&self, mail: Mail) -> Result<usize, KeepError> {
        let mail = Arc::new(mail);
        let number = self.inbox.keep(Arc::clone(&mail))?;
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

    /// Where it speaks SMTP.
    pub fn smtp_address(&self) -> SocketAddr {
        self.smtp_address
    }

    /// `smtp://127.0.0.1:PORT`
    pub fn smtp_url(&self) -> String {
        format!("smtp://{}", self.smtp_address)
    }

    /// `http://127.0.0.1:PORT`: the pages that show the mails.
    pub fn page_url(&self) -> String {
        self.page.url()
    }

    /// What has been received.
    pub fn inbox(&self) -> &Inbox<Mail> {
        &self.shared.inbox
    }

    /// What goes wrong.
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
                tracing::warn!(%error, "SMTP connection not accepted");
                // Out of file descriptors, most likely: give others time to close some.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let session = session::Session::new(stream, Arc::clone(&shared));
        let stop = stop.clone();
        tokio::spawn(async move {
            if let Some(Err(error)) = stop.run_until_cancelled(session.run()).await {
                tracing::debug!(%error, "SMTP conversation broke off");
            }
            drop(place);
        });
    }
}
