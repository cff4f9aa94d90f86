//! The ways messages travel.

mod sms;
mod smtp;

use std::time::Duration;

use chrono::{DateTime, Utc};
use lettre::message::Mailbox;
use platform::config::InvalidConfig;
use url::Url;

use crate::causes::with_causes;
use crate::config::Config;
use crate::notice::{Channel, Notice};
use crate::render::{self, Links};
use crate::store::notifications::Due;
use sms::SmsProvider;
use smtp::MailServer;

/// Longer than any message is being handed over.
pub(crate) const SENDING_LIMIT: Duration = smtp::BEFORE_DATA_LIMIT
    .saturating_add(smtp::AFTER_DATA_LIMIT)
    .saturating_add(sms::LIMIT);

/// What a server did with a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has it.
    Accepted,
    /// It was not reached, or would not talk to us: its fault or ours, not the message's. It
    /// certainly has not taken the message.
    Unreachable(String),
    /// It does not take this message now.
    Deferred(String),
    /// It will never take this message.
    Refused(String),
    /// It may have it.
    Unknown(String),
}

/// Every way there is.
#[derive(Debug)]
pub(crate) struct Channels {
    mail_server: MailServer,
    sms_provider: Option<SmsProvider>,
    from: Mailbox,
    links: Links,
}

impl Channels {
    /// # Errors
    /// When a setting is missing or can't be used.
    pub(crate) fn new(config: &Config, public_url: &Url) -> Result<Self, InvalidConfig> {
        let connections = usize::from(config.notifier_concurrency.get());
        Ok(Self {
            mail_server: MailServer::new(config.smtp_url()?, connections)?,
            sms_provider: config.sms()?.map(SmsProvider::new).transpose()?,
            from: config.mail_from.clone(),
            links: Links::new(public_url.clone()),
        })
    }

    /// Writes the message and hands it over.
    pub(crate) async fn send(&self, due: &Due, notice: &Notice, now: DateTime<Utc>) -> Outcome {
        match due.channel {
            Channel::Email => self.mail(due, notice, now).await,
            Channel::Sms => self.text(due, notice).await,
        }
    }

    async fn mail(&self, due: &Due, notice: &Notice, now: DateTime<Utc>) -> Outcome {
        match render::mail(due, notice, &self.from, &self.links, now) {
            Ok(message) => {
                self.mail_server
                    .send(message.envelope(), &message.formatted())
                    .await
            }
            Err(error) => Outcome::Refused(with_causes(&error)),
        }
    }

    async fn text(&self, due: &Due, notice: &Notice) -> Outcome {
        let Some(provider) = &self.sms_provider else {
            return Outcome::Refused("no SMS provider is configured any more".into());
        };
        let Some(phone) = &due.phone else {
            return Outcome::Refused("the account has no phone any more".into());
        };
        match render::sms(&due.event, notice, &self.links) {
            Some(body) => provider.send(phone, &body).await,
            None => Outcome::Refused("there is no text for an SMS of this kind".into()),
        }
    }
}
