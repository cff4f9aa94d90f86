//! SMTP client with a connection pool. It drives the protocol step by step, since the meaning of a
//! failure depends on the step: before the end of the data the server can't have accepted the mail,
//! after it the outcome is unknown. (lettre's transport does not distinguish the two.) Commands are
//! pipelined (RFC 2920) if the server supports it, so a mail on an open connection costs two round
//! trips.

pub(crate) mod address;
mod answer;
mod dialogue;

use std::sync::Mutex;
use std::time::Duration;

use lettre::address::Envelope;
use lettre::transport::smtp::authentication::DEFAULT_MECHANISMS;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::extension::ClientId;
use tokio::time::{Instant, timeout};

use super::Outcome;
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
    ) -> Outcome {
        let announced = timeout(BEFORE_DATA_LIMIT, self.announce(envelope, mail.is_ascii())).await;
        let mut dialogue = match announced {
            Ok(Ok(dialogue)) => dialogue,
            Ok(Err(outcome)) => return outcome,
            Err(_) => return Outcome::Unreachable("the mail server was too slow".into()),
        };
        if let Some(handover) = handover
            && let Err(reason) = handover.begin().await
        {
            // The connection is closed before the final dot, so the server discards the mail.
            return Outcome::Withheld(reason);
        }
        let (outcome, is_usable) = match timeout(AFTER_DATA_LIMIT, dialogue.hand_over(mail)).await {
            Ok(ended) => ended,
            Err(_) => {
                let error = "the mail server did not answer to the data".to_owned();
                (Outcome::Unknown(error), false)
            }
        };
        if is_usable {
            self.keep(dialogue);
        }
        outcome
    }

    /// Runs the protocol up to the server's 354, on a pooled connection or else a new one. Pooled
    /// connections that the server has closed are discarded.
    async fn announce(&self, envelope: &Envelope, is_ascii: bool) -> Result<Dialogue, Outcome> {
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

    fn give_up(&self, dialogue: Dialogue, refused: dialogue::Refused) -> Outcome {
        if refused.is_usable {
            self.keep(dialogue);
        }
        refused.outcome
    }

    async fn connect(&self) -> Result<Dialogue, Outcome> {
        let unreachable =
            |error: lettre::transport::smtp::Error| Outcome::Unreachable(error.to_string());
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
                .map_err(unreachable)?;
        let starts_tls = match tls {
            Tls::Required(tls) => Some(tls),
            Tls::WhenOffered(tls) if connection.can_starttls() => Some(tls),
            _ => None,
        };
        if let Some(tls) = starts_tls {
            let upgrading = connection.starttls(tls.clone(), &self.hello);
            upgrading.await.map_err(unreachable)?;
        }
        if let Some(credentials) = credentials {
            if !connection.is_encrypted() && !matches!(tls, Tls::None) {
                return Err(Outcome::Unreachable(
                    "the mail server offers no TLS, and the password is not sent in clear; \
                     ?tls=none in ONSALE_SMTP_URL allows it"
                        .into(),
                ));
            }
            let signing_in = connection.auth(DEFAULT_MECHANISMS, credentials);
            signing_in.await.map_err(unreachable)?;
        }
        Dialogue::begin(connection, &self.hello)
            .await
            .map_err(unreachable)
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

impl std::fmt::Debug for Idle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Idle")
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use surge::mail::{Config, StandIn};

    use super::*;

    async fn announce(url: String) -> Result<Dialogue, Outcome> {
        let address = ServerAddress::parse(&url.into()).unwrap();
        let server = MailServer::new(address, ClientId::Domain("shop.test".into()), 1);
        let from = "tickets@onsale.test".parse().unwrap();
        let to = "ada@buyers.test".parse().unwrap();
        let envelope = Envelope::new(Some(from), vec![to]).unwrap();
        server.announce(&envelope, true).await
    }

    #[tokio::test]
    async fn a_password_is_not_sent_in_clear_unless_the_operator_says_so() {
        let server = StandIn::start(Config::default()).await.unwrap();
        let at = server.smtp_address();
        assert!(announce(format!("smtp://{at}")).await.is_ok());
        let refused = |outcome: Result<Dialogue, Outcome>| match outcome {
            Err(Outcome::Unreachable(error)) => error,
            _ => panic!("nobody can sign in there"),
        };
        let error = refused(announce(format!("smtp://me:hush@{at}")).await);
        assert!(error.contains("offers no TLS"), "{error}");
        let error = refused(announce(format!("smtp://me:hush@{at}?tls=none")).await);
        assert!(error.contains("authentication mechanism"), "{error}");
    }

    #[tokio::test]
    async fn two_mails_on_one_connection_need_no_greeting_between() {
        let server = StandIn::start(Config::default()).await.unwrap();
        let mut dialogue = announce(format!("smtp://{}", server.smtp_address()))
            .await
            .unwrap_or_else(|outcome| panic!("{outcome:?}"));
        let from = "tickets@onsale.test".parse().unwrap();
        let to = "ada@buyers.test".parse().unwrap();
        let envelope = Envelope::new(Some(from), vec![to]).unwrap();
        let (outcome, is_usable) = dialogue.hand_over(b"Subject: one\r\n\r\n1\r\n").await;
        assert_eq!((outcome, is_usable), (Outcome::Accepted, true));
        assert!(dialogue.announce(&envelope, true).await.is_ok());
        let (outcome, _) = dialogue.hand_over(b"Subject: two\r\n\r\n2\r\n").await;
        assert_eq!(outcome, Outcome::Accepted);
        assert_eq!(server.inbox().len(), 2);
    }
}
