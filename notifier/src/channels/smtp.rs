//! SMTP client with a connection pool. It drives the protocol step by step, since the meaning of a
//! failure depends on the step: before the end of the data the server can't have accepted the mail,
//! after it the outcome is unknown. (lettre's transport does not distinguish the two.) Commands are
//! pipelined (RFC 2920) if the server supports it, so a mail on an open connection costs two round
//! trips.

pub(crate) mod address;
mod answer;
mod dialogue;
#[cfg(test)]
mod tests;

use std::sync::Mutex;
use std::time::Duration;

use lettre::address::Envelope;
use lettre::transport::smtp;
use lettre::transport::smtp::authentication::DEFAULT_MECHANISMS;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::extension::ClientId;
use tokio::time::{Instant, timeout};

use super::DeliveryOutcome;
use crate::recorder::Handover;
use address::{ServerAddress, Tls};
use dialogue::Dialogue;
use platform::sync::MutexExt as _;

/// Time limit until the server is ready for the data, connecting included.
pub(super) const BEFORE_DATA_LIMIT: Duration = Duration::from_secs(10);
/// Time limit for the data and the answer to it. A timeout leaves the mail uncertain, so it is
/// long, but shorter than the shutdown grace period: the process must not end before the answer.
pub(super) const AFTER_DATA_LIMIT: Duration = Duration::from_secs(40);
/// Idle time after which a pooled connection is dropped.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// A mail server with a pool of idle connections.
#[derive(Debug)]
pub(super) struct MailServer {
    address: ServerAddress,
    hello: ClientId,
    idle: Mutex<Vec<Idle>>,
    max_idle: usize,
}

struct Idle {
    dialogue: Dialogue,
    since: Instant,
}

impl MailServer {
    /// Pools up to `max_idle` idle connections to `address`; does not connect yet.
    pub(super) fn new(address: ServerAddress, hello: ClientId, max_idle: usize) -> Self {
        Self {
            address,
            hello,
            idle: Mutex::default(),
            max_idle,
        }
    }

    /// Sends a mail, after recording `handover` if given. Not cancel-safe: dropping the future
    /// leaves the outcome unknown.
    pub(super) async fn send(
        &self,
        envelope: &Envelope,
        mail: &[u8],
        handover: Option<&Handover<'_>>,
    ) -> DeliveryOutcome {
        let announced = timeout(BEFORE_DATA_LIMIT, self.announce(envelope, mail.is_ascii())).await;
        let mut dialogue = match announced {
            Ok(Ok(dialogue)) => dialogue,
            Ok(Err(outcome)) => return outcome,
            Err(_) => return DeliveryOutcome::Unreachable("the mail server was too slow".into()),
        };
        if let Some(handover) = handover
            && let Err(reason) = handover.begin().await
        {
            // The connection is closed before the final dot, so the server discards the mail.
            return DeliveryOutcome::Withheld(reason);
        }
        let (outcome, is_usable) = match timeout(AFTER_DATA_LIMIT, dialogue.hand_over(mail)).await {
            Ok(ended) => ended,
            Err(_) => {
                let error = "the mail server did not answer to the data".to_owned();
                (DeliveryOutcome::Unknown(error), false)
            }
        };
        if is_usable {
            self.keep(dialogue);
        }
        outcome
    }

    /// Runs the protocol up to the server's 354, on a pooled connection or else a new one. Pooled
    /// connections that the server has closed are discarded.
    async fn announce(
        &self,
        envelope: &Envelope,
        is_ascii: bool,
    ) -> Result<Dialogue, DeliveryOutcome> {
        while let Some(mut dialogue) = self.take_idle() {
            match dialogue.announce(envelope, is_ascii).await {
                Ok(()) => return Ok(dialogue),
                Err(refused) if refused.is_broken => {}
                Err(refused) => return Err(self.give_up(dialogue, refused)),
            }
        }
        let mut dialogue = self.connect().await?;
        match dialogue.announce(envelope, is_ascii).await {
            Ok(()) => Ok(dialogue),
            Err(refused) => Err(self.give_up(dialogue, refused)),
        }
    }

    fn give_up(&self, dialogue: Dialogue, refused: dialogue::Refused) -> DeliveryOutcome {
        if refused.is_usable {
            self.keep(dialogue);
        }
        refused.outcome
    }

    async fn connect(&self) -> Result<Dialogue, DeliveryOutcome> {
        let ServerAddress {
            host,
            port,
            tls,
            credentials,
        } = &self.address;
        let wrapper = match tls {
            Tls::FromTheStart(tls) => Some(tls.clone()),
            Tls::Required(_) | Tls::WhenOffered(_) | Tls::None => None,
        };
        let at = (host.as_str(), *port);
        let limit = Some(BEFORE_DATA_LIMIT);
        let mut connection =
            AsyncSmtpConnection::connect_tokio1(at, limit, &self.hello, wrapper, None)
                .await
                .map_err(|error| unreachable(&error))?;
        let starts_tls = match tls {
            Tls::Required(tls) => Some(tls),
            Tls::WhenOffered(tls) if connection.can_starttls() => Some(tls),
            _ => None,
        };
        if let Some(tls) = starts_tls {
            let upgrading = connection.starttls(tls.clone(), &self.hello);
            upgrading.await.map_err(|error| unreachable(&error))?;
        }
        if let Some(credentials) = credentials {
            if !connection.is_encrypted() && !matches!(tls, Tls::None) {
                return Err(DeliveryOutcome::Unreachable(
                    "the mail server offers no TLS, and the password is not sent in clear; \
                     ?tls=none in ONSALE_SMTP_URL allows it"
                        .into(),
                ));
            }
            let signing_in = connection.auth(DEFAULT_MECHANISMS, credentials);
            signing_in.await.map_err(|error| unreachable(&error))?;
        }
        Dialogue::begin(connection, &self.hello)
            .await
            .map_err(|error| unreachable(&error))
    }

    fn take_idle(&self) -> Option<Dialogue> {
        let mut idle = self.idle.lock_unpoisoned();
        idle.retain(|idle| idle.since.elapsed() < IDLE_LIMIT);
        idle.pop().map(|idle| idle.dialogue)
    }

    fn keep(&self, dialogue: Dialogue) {
        let mut idle = self.idle.lock_unpoisoned();
        if idle.len() < self.max_idle {
            idle.push(Idle {
                dialogue,
                since: Instant::now(),
            });
        }
    }
}

/// Describes a failure before the first mail; names the setting that trusts one's own authority.
fn unreachable(error: &smtp::Error) -> DeliveryOutcome {
    let mut text = error.to_string();
    // The second is an authority that has the name of a trusted one, such as its predecessor.
    let is_unknown = |fault| text.contains(fault);
    if ["UnknownIssuer", "BadSignature"]
        .into_iter()
        .any(is_unknown)
    {
        text.push_str("; if its authority is your own, ONSALE_CA_FILE must name it");
    }
    DeliveryOutcome::Unreachable(text)
}

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idle")
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}
