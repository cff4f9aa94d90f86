//! A mail server. The conversation is led step by step, since what a failure means depends on the
//! step: before the end of the data the server can't have taken the mail, after it nobody knows.
//! (lettre's transport tells neither apart.)

mod address;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lettre::Address;
use lettre::address::Envelope;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::DEFAULT_MECHANISMS;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::Severity;
use platform::config::InvalidConfig;
use secrecy::SecretString;
use tokio::time::{Instant, timeout};

use super::Outcome;
use address::{ServerAddress, Tls};

/// How long a server may take until it is ready for the data.
pub(super) const BEFORE_DATA_LIMIT: Duration = Duration::from_secs(20);
/// How long a server may take over the data and its answer to it. Generous, since giving up
/// leaves the mail uncertain.
pub(super) const AFTER_DATA_LIMIT: Duration = Duration::from_secs(60);
/// How long an unused connection is kept.
const IDLE_LIMIT: Duration = Duration::from_secs(30);
/// The answer that asks for the data.
const START_DATA: u16 = 354;

/// A mail server with connections to it.
#[derive(Debug)]
pub(super) struct MailServer {
    address: ServerAddress,
    hello: ClientId,
    idle: Mutex<Vec<Idle>>,
    max_idle: usize,
}

struct Idle {
    connection: AsyncSmtpConnection,
    since: Instant,
}

impl MailServer {
    /// The server at `url`; up to `max_idle` connections are kept open.
    pub(super) fn new(url: &SecretString, max_idle: usize) -> Result<Self, InvalidConfig> {
        Ok(Self {
            address: ServerAddress::parse(url)?,
            hello: ClientId::default(),
            idle: Mutex::default(),
            max_idle,
        })
    }

    /// Hands a mail over. Dropping the future leaves its outcome unknown.
    pub(super) async fn send(&self, envelope: &Envelope, mail: &[u8]) -> Outcome {
        let ready = timeout(BEFORE_DATA_LIMIT, self.announce(envelope, mail.is_ascii())).await;
        let mut connection = match ready {
            Ok(Ok(connection)) => connection,
            Ok(Err(outcome)) => return outcome,
            Err(_) => return Outcome::Unreachable("the mail server was too slow".into()),
        };
        match timeout(AFTER_DATA_LIMIT, connection.message(mail)).await {
            Ok(Ok(answer)) if answer.code().severity == Severity::PositiveCompletion => {
                self.keep(connection);
                Outcome::Accepted
            }
            Ok(Ok(answer)) => {
                Outcome::Unknown(format!("the mail server answered {}", answer.code()))
            }
            Ok(Err(error)) if is_answer(&error) => {
                self.keep(connection);
                refusal(&error)
            }
            Ok(Err(error)) => Outcome::Unknown(format!("after the data: {error}")),
            Err(_) => Outcome::Unknown("the mail server did not answer to the data".into()),
        }
    }

    /// Leads the conversation up to the point where the server wants the data.
    async fn announce(
        &self,
        envelope: &Envelope,
        is_ascii: bool,
    ) -> Result<AsyncSmtpConnection, Outcome> {
        let mut connection = self
            .connection()
            .await
            .map_err(|error| unreachable(&error))?;
        let parameters = parameters(&connection, envelope, is_ascii)?;
        let from = Mail::new(envelope.from().cloned(), parameters);
        // Whom we write as is our matter, not the recipient's.
        connection
            .command(from)
            .await
            .map_err(|error| unreachable(&error))?;
        for recipient in envelope.to() {
            let to = Rcpt::new(recipient.clone(), Vec::new());
            if let Err(error) = connection.command(to).await {
                if is_answer(&error) && connection.command(Rset).await.is_ok() {
                    self.keep(connection);
                }
                return Err(refusal(&error));
            }
        }
        let answer = connection
            .command(Data)
            .await
            .map_err(|error| refusal(&error))?;
        if answer.has_code(START_DATA) {
            Ok(connection)
        } else {
            Err(Outcome::Unreachable(format!(
                "the mail server answers {} to DATA",
                answer.code()
            )))
        }
    }

    /// A connection that works: one that was kept, or a new one.
    async fn connection(&self) -> Result<AsyncSmtpConnection, Error> {
        while let Some(mut connection) = self.take_idle() {
            if connection.test_connected().await {
                return Ok(connection);
            }
        }
        self.connect().await
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Error> {
        let ServerAddress {
            host,
            port,
            tls,
            credentials,
        } = &self.address;
        let at = (host.as_str(), *port);
        let wrapper = match tls {
            Tls::FromTheStart(tls) => Some(tls.clone()),
            Tls::AfterGreeting(_) | Tls::None => None,
        };
        let limit = Some(BEFORE_DATA_LIMIT);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(at, limit, &self.hello, wrapper, None).await?;
        if let Tls::AfterGreeting(tls) = tls {
            connection.starttls(tls.clone(), &self.hello).await?;
        }
        if let Some(credentials) = credentials {
            connection.auth(DEFAULT_MECHANISMS, credentials).await?;
        }
        Ok(connection)
    }

    fn take_idle(&self) -> Option<AsyncSmtpConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() < IDLE_LIMIT);
        idle.pop().map(|idle| idle.connection)
    }

    fn keep(&self, connection: AsyncSmtpConnection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < self.max_idle {
            idle.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }
}

fn parameters(
    connection: &AsyncSmtpConnection,
    envelope: &Envelope,
    is_ascii: bool,
) -> Result<Vec<MailParameter>, Outcome> {
    let can = |extension| connection.server_info().supports_feature(extension);
    let mut parameters = Vec::new();
    let is_ascii_only = |address: &Address| address.to_string().is_ascii();
    if !envelope
        .to()
        .iter()
        .chain(envelope.from())
        .all(is_ascii_only)
    {
        if !can(Extension::SmtpUtfEight) {
            return Err(Outcome::Refused(
                "the mail server takes only ASCII addresses".into(),
            ));
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    if !is_ascii {
        if !can(Extension::EightBitMime) {
            return Err(Outcome::Refused(
                "the mail server takes only ASCII mails".into(),
            ));
        }
        parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    Ok(parameters)
}

/// Whether the server said no, as opposed to saying nothing we understand.
fn is_answer(error: &Error) -> bool {
    error.is_transient() || error.is_permanent()
}

/// What an error about the mail itself means while the server can't have taken it.
fn refusal(error: &Error) -> Outcome {
    if error.is_permanent() {
        Outcome::Refused(error.to_string())
    } else if error.is_transient() {
        Outcome::Deferred(error.to_string())
    } else {
        unreachable(error)
    }
}

fn unreachable(error: &Error) -> Outcome {
    Outcome::Unreachable(error.to_string())
}

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idle")
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}
