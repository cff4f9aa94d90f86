//! What the operator sets.

use std::num::NonZeroU16;

use lettre::message::Mailbox;
use platform::config::InvalidConfig;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

/// Settings of the notifier.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// The mail server: smtp:// or smtps://USER:PASSWORD@HOST:PORT; smtp with ?tls=required
    /// switches to TLS after the greeting.
    #[arg(long, env = "ONSALE_SMTP_URL", hide_env_values = true)]
    pub smtp_url: Option<SecretString>,
    /// Whom mails come from.
    #[arg(
        long,
        env = "ONSALE_MAIL_FROM",
        default_value = "Onsale <tickets@localhost>"
    )]
    pub mail_from: Mailbox,
    /// Where the SMS provider's Twilio-compatible API is; without it no SMS are sent.
    #[arg(long, env = "ONSALE_SMS_URL")]
    pub sms_url: Option<Url>,
    /// The account at the SMS provider, AC….
    #[arg(long, env = "ONSALE_SMS_ACCOUNT")]
    pub sms_account: Option<String>,
    /// The account's token.
    #[arg(long, env = "ONSALE_SMS_TOKEN", hide_env_values = true)]
    pub sms_token: Option<SecretString>,
    /// The number SMS come from, in E.164.
    #[arg(long, env = "ONSALE_SMS_FROM")]
    pub sms_from: Option<String>,
    /// Most mails, and most SMS, being sent at once.
    #[arg(long, env = "ONSALE_NOTIFIER_CONCURRENCY", default_value = "8")]
    pub notifier_concurrency: NonZeroU16,
}

/// What is needed to send SMS.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SmsSettings<'a> {
    pub(crate) url: &'a Url,
    pub(crate) account: &'a str,
    pub(crate) token: &'a SecretString,
    pub(crate) from: &'a str,
}

impl Config {
    pub(crate) fn smtp_url(&self) -> Result<&SecretString, InvalidConfig> {
        let url = self
            .smtp_url
            .as_ref()
            .filter(|url| !url.expose_secret().is_empty());
        url.ok_or_else(|| InvalidConfig::new("ONSALE_SMTP_URL must be set to send mail"))
    }

    /// `None` when no SMS are to be sent.
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
    struct Command {
        #[command(flatten)]
        config: Config,
    }

    fn parse(flags: &[&str]) -> Config {
        Command::parse_from([&["notifier"], flags].concat()).config
    }

    #[test]
    fn sms_settings_are_given_together_or_not_at_all() {
        assert!(parse(&[]).sms().unwrap().is_none());
        let some = parse(&["--sms-url", "http://sms.test", "--sms-account", "AC1"]);
        let error = some.sms().unwrap_err().to_string();
        assert!(error.contains("ONSALE_SMS_TOKEN"), "{error}");
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
