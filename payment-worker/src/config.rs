//! Settings of the payment worker.

use std::num::NonZeroU32;
use std::time::Duration;

use platform::config::{InvalidConfig, defaults, listed_secret, positive_seconds};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

const DAY: Duration = Duration::from_hours(24);

/// Settings of the payment worker.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Payment worker")]
#[group(skip)]
pub struct Config {
    /// Stripe's secret key, `sk_test_…` or `sk_live_…`.
    #[arg(
        long = "stripe-secret-key",
        env = "STRIPE_SECRET_KEY",
        hide_env_values = true
    )]
    pub stripe_secret_key: Option<SecretString>,
    /// Signing secrets of webhooks, `whsec_…`; two, separated by a comma, while rotating.
    #[arg(
        long = "stripe-webhook-secret",
        env = "STRIPE_WEBHOOK_SECRET",
        hide_env_values = true,
        value_delimiter = ',',
        value_parser = listed_secret
    )]
    pub stripe_webhook_secrets: Vec<SecretString>,
    /// Base URL of Stripe's API.
    #[arg(
        long = "stripe-url",
        env = "ONSALE_STRIPE_URL",
        default_value = "https://api.stripe.com"
    )]
    pub stripe_url: Url,
    /// Timeout of a call to Stripe, in seconds.
    #[arg(
        long,
        env = "ONSALE_STRIPE_TIMEOUT_SECONDS",
        default_value = "20",
        value_parser = positive_seconds
    )]
    pub stripe_timeout: Duration,
    /// Most calls to Stripe per second, of this process: the account's limit, divided among the
    /// payment workers that run.
    #[arg(long, env = "ONSALE_STRIPE_RATE", default_value = "100")]
    pub stripe_rate: NonZeroU32,
    /// Most calls to Stripe per second and kind, such as capture.
    #[arg(long, env = "ONSALE_STRIPE_ENDPOINT_RATE", default_value = "25")]
    pub stripe_endpoint_rate: NonZeroU32,
    /// Most operations of a kind in flight at Stripe.
    #[arg(long, env = "ONSALE_STRIPE_CONCURRENCY", default_value = "16")]
    pub stripe_concurrency: NonZeroU32,
    /// Time between two rounds that compare unsettled payments with Stripe, in seconds.
    #[arg(
        long,
        env = "ONSALE_RECONCILE_SECONDS",
        default_value = "20",
        value_parser = positive_seconds
    )]
    pub reconcile_interval: Duration,
    /// Age from which an unsettled payment is compared with Stripe, in seconds.
    #[arg(
        long,
        env = "ONSALE_RECONCILE_AFTER_SECONDS",
        default_value = "30",
        value_parser = positive_seconds
    )]
    pub reconcile_after: Duration,
    /// Time between two comparisons of all that Stripe has of the last days, in seconds.
    #[arg(
        long,
        env = "ONSALE_RECONCILE_WINDOW_SECONDS",
        default_value = "3600",
        value_parser = positive_seconds
    )]
    pub reconcile_window_interval: Duration,
    /// Lookback of that comparison, in days.
    #[arg(
        long = "reconcile-window-days",
        env = "ONSALE_RECONCILE_WINDOW_DAYS",
        default_value = "7",
        value_parser = days
    )]
    pub reconcile_window: Duration,
}

impl Default for Config {
    fn default() -> Self {
        defaults(&[])
    }
}

impl Config {
    pub(crate) fn secret_key(&self) -> Result<&SecretString, InvalidConfig> {
        let key = self
            .stripe_secret_key
            .as_ref()
            .filter(|key| !key.expose_secret().is_empty());
        key.ok_or_else(|| InvalidConfig::new("STRIPE_SECRET_KEY must be set to call Stripe"))
    }

    /// `true` if the key moves real money; `None` when its prefix is no known one.
    pub(crate) fn is_live(&self) -> Option<bool> {
        let key = self.stripe_secret_key.as_ref()?.expose_secret();
        // `sk_live_…`, or `rk_test_…` for a restricted one.
        match key.split('_').nth(1)? {
            "live" => Some(true),
            "test" => Some(false),
            _ => None,
        }
    }

    pub(crate) fn webhook_secrets(&self) -> Result<&[SecretString], InvalidConfig> {
        let secrets = &self.stripe_webhook_secrets;
        // Anybody can sign with an empty secret.
        if secrets.is_empty()
            || secrets
                .iter()
                .any(|secret| secret.expose_secret().is_empty())
        {
            let sentence = "STRIPE_WEBHOOK_SECRET must be set, to one secret or two with a comma";
            return Err(InvalidConfig::new(sentence));
        }
        Ok(secrets)
    }
}

fn days(text: &str) -> Result<Duration, String> {
    let days: NonZeroU32 = text
        .parse()
        .map_err(|_| "not a whole number of days, from 1".to_owned())?;
    Ok(DAY * days.get())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_webhook_secrets_may_be_given_while_rotating() {
        let config: Config = defaults(&["--stripe-webhook-secret", "whsec_new,whsec_old"]);
        let secrets: Vec<_> = config
            .webhook_secrets()
            .unwrap()
            .iter()
            .map(ExposeSecret::expose_secret)
            .collect();
        assert_eq!(secrets, ["whsec_new", "whsec_old"]);
    }

    #[test]
    fn an_empty_webhook_secret_is_refused() {
        let config: Config = defaults(&["--stripe-webhook-secret", "whsec_new,"]);
        assert!(config.webhook_secrets().is_err());
    }

    #[test]
    fn secrets_are_not_shown() {
        let flags = [
            "--stripe-secret-key",
            "sk_test_1",
            "--stripe-webhook-secret",
            "w1",
        ];
        let shown = format!("{:?}", defaults::<Config>(&flags));
        assert!(
            !shown.contains("sk_test_1") && !shown.contains("\"w1\""),
            "{shown}"
        );
    }

    #[test]
    fn a_duration_is_in_the_unit_of_its_flag() {
        let config: Config = defaults(&["--stripe-timeout", "0.5", "--reconcile-window-days", "2"]);
        assert_eq!(config.stripe_timeout, Duration::from_millis(500));
        assert_eq!(config.reconcile_window, DAY * 2);
        assert_eq!(Config::default().reconcile_window, DAY * 7);
        for text in ["0", "-1", "1.5", "a week"] {
            assert!(days(text).is_err(), "{text}");
        }
    }
}
