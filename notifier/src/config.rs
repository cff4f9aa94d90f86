//! Configuration of the notifier.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use lettre::Address;
use lettre::message::Mailbox;
use lettre::transport::smtp::extension::ClientId;
use platform::config::{InvalidConfig, seconds};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::channels::smtp::address::ServerAddress;

/// Default sender for a mail server on this machine.
const LOCAL_SENDER: &str = "Onsale <tickets@localhost>";

/// Settings of the notifier.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Mail and SMS")]
#[group(skip)]
pub struct Config {
    /// Mail server: smtp:// or smtps://USER:PASSWORD@HOST:PORT. smtp uses STARTTLS if offered;
    /// ?tls=required insists on it, ?tls=none sends even a password in clear.
    #[arg(long, env = "ONSALE_SMTP_URL", hide_env_values = true)]
    pub smtp_url: Option<SecretString>,
    /// Sender of mails, such as Onsale <tickets@example.org>; required unless the mail server is on
    /// this machine.
    #[arg(long, env = "ONSALE_MAIL_FROM")]
    pub mail_from: Option<Mailbox>,
    /// Reply-To address of mails, if not the sender.
    #[arg(long, env = "ONSALE_MAIL_REPLY_TO")]
    pub mail_reply_to: Option<Mailbox>,
    /// Envelope sender, which receives bounces, if not the sender.
    #[arg(long, env = "ONSALE_MAIL_BOUNCES_TO")]
    pub mail_bounces_to: Option<Address>,
    /// Fully qualified name for HELO/EHLO. Defaults to the host of ONSALE_PUBLIC_URL, or else the
    /// sender's domain.
    #[arg(long, env = "ONSALE_SMTP_HELO")]
    pub smtp_helo: Option<String>,
    /// Base URL of the SMS provider's Twilio-compatible API; without it no SMS are sent.
    #[arg(long, env = "ONSALE_SMS_URL")]
    pub sms_url: Option<Url>,
    /// Account SID at the SMS provider, AC….
    #[arg(long, env = "ONSALE_SMS_ACCOUNT")]
    pub sms_account: Option<String>,
    /// Auth token of the SMS account.
    #[arg(long, env = "ONSALE_SMS_TOKEN", hide_env_values = true)]
    pub sms_token: Option<SecretString>,
    /// Sender number of SMS, in E.164.
    #[arg(long, env = "ONSALE_SMS_FROM")]
    pub sms_from: Option<String>,
    /// Most mails, and most SMS, in flight at once. A mail takes two round trips to the server.
    #[arg(long, env = "ONSALE_NOTIFIER_CONCURRENCY", default_value = "16")]
    pub notifier_concurrency: NonZeroU16,
    /// Most mails sent per second by one process; unlimited by default.
    #[arg(long, env = "ONSALE_MAILS_PER_SECOND")]
    pub mails_per_second: Option<NonZeroU32>,
    /// Delay of the mail about held seats, so that a buyer who pays at once gets only the tickets;
    /// at most a quarter of the hold.
    #[arg(
        long = "held-mail-delay-seconds",
        env = "ONSALE_HELD_MAIL_DELAY_SECONDS",
        value_name = "SECONDS",
        default_value = "60",
        value_parser = seconds
    )]
    pub held_mail_delay: Duration,
    /// Delay of news about a changed event, so that several changes are sent as one.
    #[arg(
        long = "news-delay-seconds",
        env = "ONSALE_NEWS_DELAY_SECONDS",
        value_name = "SECONDS",
        default_value = "60",
        value_parser = seconds
    )]
    pub news_delay: Duration,
    /// Days after an event until its notifications are deleted.
    #[arg(
        long,
        env = "ONSALE_NOTICES_KEPT_DAYS",
        default_value_t = 180,
        value_parser = clap::value_parser!(u16).range(31..)
    )]
    pub notices_kept_days: u16,
}

/// Settings of the SMS provider; complete if present.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SmsSettings<'a> {
    pub(crate) url: &'a Url,
    pub(crate) account: &'a str,
    pub(crate) token: &'a SecretString,
    pub(crate) from: &'a str,
}

impl Config {
    /// Parses the mail server's URL.
    ///
    /// # Errors
    /// When it is missing or not valid.
    pub(crate) fn mail_server(&self) -> Result<ServerAddress, InvalidConfig> {
        let url = self
            .smtp_url
            .as_ref()
            .filter(|url| !url.expose_secret().is_empty());
        let url =
            url.ok_or_else(|| InvalidConfig::new("ONSALE_SMTP_URL must be set to send mail"))?;
        ServerAddress::parse(url)
    }

    /// Returns the sender of mails. Only a server on this machine has a default.
    ///
    /// # Errors
    /// When it is missing for a remote server.
    pub(crate) fn sender(&self, server: &ServerAddress) -> Result<Mailbox, InvalidConfig> {
        match &self.mail_from {
            Some(from) => Ok(from.clone()),
            None if server.is_local() => Ok(LOCAL_SENDER.parse().expect("it is a mailbox")),
            None => Err(InvalidConfig::new(
                "ONSALE_MAIL_FROM must be set with ONSALE_SMTP_URL, such as \
                 Onsale <tickets@example.org>",
            )),
        }
    }

    /// Returns the name for EHLO. Many servers refuse one that is not fully qualified.
    ///
    /// # Errors
    /// When the configured name is not a host name.
    pub(crate) fn hello(
        &self,
        from: &Mailbox,
        public_url: &Url,
    ) -> Result<ClientId, InvalidConfig> {
        if let Some(name) = &self.smtp_helo {
            let is_label = |label: &str| {
                !label.is_empty()
                    && label
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            };
            return if name.split('.').all(is_label) {
                Ok(ClientId::Domain(name.clone()))
            } else {
                Err(InvalidConfig::new(format!(
                    "ONSALE_SMTP_HELO must be a host name, not {name:?}"
                )))
            };
        }
        let public = public_url.domain().filter(|host| host.contains('.'));
        let name = public.unwrap_or_else(|| from.email.domain());
        Ok(ClientId::Domain(name.to_owned()))
    }

    /// Returns the SMS settings; `None` if no provider is configured.
    ///
    /// # Errors
    /// When only some of them are set.
    pub(crate) fn sms(&self) -> Result<Option<SmsSettings<'_>>, InvalidConfig> {
        let Some(url) = &self.sms_url else {
            return Ok(None);
        };
        let missing = |key| InvalidConfig::new(format!("{key} must be set with ONSALE_SMS_URL"));
        Ok(Some(SmsSettings {
            url,
            account: self
                .sms_account
                .as_deref()
                .ok_or_else(|| missing("ONSALE_SMS_ACCOUNT"))?,
            token: self
                .sms_token
                .as_ref()
                .ok_or_else(|| missing("ONSALE_SMS_TOKEN"))?,
            from: self
                .sms_from
                .as_deref()
                .ok_or_else(|| missing("ONSALE_SMS_FROM"))?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        config: Config,
    }

    fn parse(flags: &[&str]) -> Config {
        Program::parse_from([&["notifier"], flags].concat()).config
    }

    #[test]
    fn sms_settings_are_given_together_or_not_at_all() {
        assert!(parse(&[]).sms().unwrap().is_none());
        let some = parse(&["--sms-url", "http://sms.test", "--sms-account", "AC1"]);
        let error = some.sms().unwrap_err().to_string();
        assert!(error.contains("ONSALE_SMS_TOKEN"), "{error}");
    }

    #[test]
    fn a_mail_server_elsewhere_needs_a_sender() {
        let sender = |flags: &[&str]| {
            let config = parse(flags);
            config.sender(&config.mail_server()?)
        };
        let error = sender(&["--smtp-url", "smtps://mail.test"]).unwrap_err();
        assert!(error.to_string().contains("ONSALE_MAIL_FROM"), "{error}");
        for local in ["smtp://localhost:2525", "smtp://127.0.0.1", "smtp://[::1]"] {
            let from = sender(&["--smtp-url", local]).unwrap();
            assert_eq!(from.email.to_string(), "tickets@localhost");
        }
        let from = ["--smtp-url", "smtps://mail.test", "--mail-from", "a@b.test"];
        assert_eq!(sender(&from).unwrap().email.to_string(), "a@b.test");
    }

    #[test]
    fn the_mail_server_is_greeted_with_a_full_name() {
        let from: Mailbox = "a@sender.test".parse().unwrap();
        let hello = |flags: &[&str], url: &str| {
            let name = parse(flags).hello(&from, &url.parse().unwrap());
            name.map(|name| name.to_string()).map_err(|e| e.to_string())
        };
        assert_eq!(hello(&[], "https://shop.test/x").unwrap(), "shop.test");
        assert_eq!(hello(&[], "http://127.0.0.1:8080").unwrap(), "sender.test");
        assert_eq!(hello(&[], "http://shop:8080").unwrap(), "sender.test");
        let named = &["--smtp-helo", "mx.test"];
        assert_eq!(hello(named, "https://shop.test").unwrap(), "mx.test");
        let split = &["--smtp-helo", "mx.test\r\nRSET"];
        assert!(hello(split, "https://shop.test").is_err());
    }

    #[test]
    fn passwords_are_not_shown() {
        let config = parse(&[
            "--smtp-url",
            "smtps://me:hush@mail.test",
            "--sms-token",
            "secret1",
        ]);
        let shown = format!("{config:?}");
        assert!(
            !shown.contains("hush") && !shown.contains("secret1"),
            "{shown}"
        );
    }
}
