//! A mail server. The dialogue is spoken step by step, since what a failure means depends on the
//! step: before the end of the data the server can't have taken the mail, after it nobody knows.
//! (lettre's transport tells neither apart.) Commands are pipelined (RFC 2920) where the server
//! takes that: a mail on an open connection costs two round trips.

pub(crate) mod address;
mod answer;
mod dialogue;

use std::sync::{Mutex, PoisonError};
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

/// How long a server may take until it is ready for the data.
pub(super) const BEFORE_DATA_LIMIT: Duration = Duration::from_secs(10);
/// How long a server may take over the data and its answer to it. Giving up leaves the mail
/// uncertain; beyond the grace time of a shutdown the process would end before the answer.
pub(super) const AFTER_DATA_LIMIT: Duration = Duration::from_secs(40);
/// How long an unused connection is kept.
const IDLE_LIMIT: Duration = Duration::from_secs(30);

/// A mail server with connections to it.
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
    /// The server at `address`, greeted as `hello`; up to `max_idle` connections are kept open.
    pub(super) fn new(address: ServerAddress, hello: ClientId, max_idle: usize) -> Self {
        Self {
            address,
            hello,
            idle: Mutex::default(),
            max_idle,
        }
    }

    /// Hands a mail over, after `handover` has recorded it, if it is recorded at all. Dropping the
    /// future leaves its outcome unknown.
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
            // Closed before the lone dot: the server drops what it has.
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

    /// Speaks up to the point where the server wants the data. A kept connection may have been
    /// closed meanwhile; then the next is used, and at last a new one.
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
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| idle.since.elapsed() < IDLE_LIMIT);
        idle.pop().map(|idle| idle.dialogue)
    }

    fn keep(&self, dialogue: Dialogue) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
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
