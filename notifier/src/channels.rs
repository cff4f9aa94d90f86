//! Delivery channels: SMTP and SMS.

mod sms;
pub(crate) mod smtp;

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::message::{ConfirmationAsked, ContactChannel};
use platform::causes::with_causes;
use platform::config::InvalidConfig;
use url::Url;

use crate::config::Config;
use crate::notice::Channel;
use crate::recorder::Handover;
use crate::render::{self, Letterhead, Links};
use crate::store::queue::Due;
use sms::SmsProvider;
use smtp::MailServer;

/// Upper bound on the time before the handover of a message begins.
pub(crate) const BEFORE_HANDOVER_LIMIT: Duration = smtp::BEFORE_DATA_LIMIT;
/// Upper bound on the duration of a handover, on any channel.
pub(crate) const HANDOVER_LIMIT: Duration = smtp::AFTER_DATA_LIMIT;

/// Outcome of one delivery attempt. All but `Accepted` and `Unknown` guarantee that the server does
/// not have the message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum DeliveryOutcome {
    /// The server took responsibility for the message.
    Accepted,
    /// The server could not be reached or serves nobody; counts against the circuit breaker.
    Unreachable(String),
    /// Refused for a reason on the sender's side, such as a quota or policy; counts against the
    /// circuit breaker, and is retried.
    Rejected(String),
    /// Refused temporarily for this recipient or message; retried.
    Deferred(String),
    /// Refused permanently for this recipient or message.
    Refused(String),
    /// No answer after the handover: the message may have been delivered. Never retried.
    Unknown(String),
    /// Not handed over by this process: the lease was lost or it is shutting down.
    Withheld(String),
}

impl DeliveryOutcome {
    /// Metric label of a failure; `None` if accepted.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        match self {
            Self::Accepted => None,
            Self::Unreachable(_) => Some("unreachable"),
            Self::Rejected(_) => Some("rejected"),
            Self::Deferred(_) => Some("deferred"),
            Self::Refused(_) => Some("refused"),
            Self::Unknown(_) => Some("unknown"),
            Self::Withheld(_) => Some("withheld"),
        }
    }
}

/// All configured channels, with what rendering needs.
#[derive(Debug)]
pub(crate) struct Channels {
    mail_server: MailServer,
    sms_provider: Option<SmsProvider>,
    letterhead: Letterhead,
    links: Links,
}

impl Channels {
    /// Builds the channels from the configuration, without connecting.
    ///
    /// # Errors
    /// When a setting is missing or not valid.
    pub(crate) fn new(config: &Config, public_url: &Url) -> Result<Self, InvalidConfig> {
        let address = config.mail_server()?;
        let from = config.sender(&address)?;
        let hello = config.hello(&from, public_url)?;
        let connections = usize::from(config.notifier_concurrency.get());
        Ok(Self {
            mail_server: MailServer::new(address, hello, connections),
            sms_provider: config.sms()?.map(SmsProvider::new).transpose()?,
            letterhead: Letterhead {
                from,
                reply_to: config.mail_reply_to.clone(),
                bounces_to: config.mail_bounces_to.clone(),
            },
            links: Links::new(public_url.clone()),
        })
    }

    /// Renders a notification and hands it over.
    pub(crate) async fn send(
        &self,
        due: &Due,
        handover: &Handover<'_>,
        now: DateTime<Utc>,
    ) -> DeliveryOutcome {
        match due.channel {
            Channel::Email => self.mail(due, handover, now).await,
            Channel::Sms => self.text(due, handover).await,
        }
    }

    /// Sends a confirmation code to the address or phone it confirms, without recording a handover.
    pub(crate) async fn send_code(
        &self,
        asked: &ConfirmationAsked,
        code: &str,
        now: DateTime<Utc>,
    ) -> DeliveryOutcome {
        match (asked.channel, &self.sms_provider) {
            (ContactChannel::Email, _) => {
                match render::code_mail(asked, code, &self.letterhead, now) {
                    Ok(message) => {
                        let mail = message.formatted();
                        let envelope = message.envelope();
                        self.mail_server.send(envelope, &mail, None).await
                    }
                    Err(error) => DeliveryOutcome::Refused(with_causes(&error)),
                }
            }
            (ContactChannel::Sms, Some(provider)) => {
                let text = render::code_sms(code);
                provider.send(&asked.address, &text, None).await
            }
            (ContactChannel::Sms, None) => {
                DeliveryOutcome::Refused("no SMS provider is configured".into())
            }
        }
    }

    async fn mail(
        &self,
        due: &Due,
        handover: &Handover<'_>,
        now: DateTime<Utc>,
    ) -> DeliveryOutcome {
        match render::mail(due, &self.letterhead, &self.links, now) {
            Ok(message) => {
                let mail = message.formatted();
                self.mail_server
                    .send(message.envelope(), &mail, Some(handover))
                    .await
            }
            Err(error) => DeliveryOutcome::Refused(with_causes(&error)),
        }
    }

    async fn text(&self, due: &Due, handover: &Handover<'_>) -> DeliveryOutcome {
        let Some(provider) = &self.sms_provider else {
            return DeliveryOutcome::Refused("no SMS provider is configured any more".into());
        };
        let Some(phone) = &due.phone else {
            return DeliveryOutcome::Refused("the account has no phone any more".into());
        };
        match render::sms(&due.event, &due.notice, &self.links) {
            Some(body) => provider.send(phone, &body, Some(handover)).await,
            None => DeliveryOutcome::Refused("there is no text for an SMS of this kind".into()),
        }
    }
}
