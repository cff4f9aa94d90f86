//! Settings of admission.

use std::time::Duration;

use platform::config::{defaults, milliseconds};
use url::Url;

/// Settings of admission.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Admission")]
#[group(skip)]
pub struct Config {
    /// Stripe's publishable key, sent to buyers with a payment due
    #[arg(long, env = "STRIPE_PUBLISHABLE_KEY")]
    pub stripe_publishable_key: Option<String>,

    /// Address at which buyers' browsers reach Stripe
    #[arg(
        long,
        env = "ONSALE_STRIPE_PUBLIC_URL",
        default_value = "https://api.stripe.com"
    )]
    pub stripe_public_url: Url,

    /// Time a booking request waits for its outcome before it is answered 202
    #[arg(
        long = "outcome-wait-ms",
        env = "ONSALE_OUTCOME_WAIT_MS",
        value_name = "MILLISECONDS",
        default_value = "2000",
        value_parser = milliseconds
    )]
    pub outcome_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        defaults(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_for_an_outcome_is_in_milliseconds() {
        assert_eq!(Config::default().outcome_wait, Duration::from_secs(2));
        let Config { outcome_wait, .. } = defaults(&["--outcome-wait-ms", "250"]);
        assert_eq!(outcome_wait, Duration::from_millis(250));
    }
}
