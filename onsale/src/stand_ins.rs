//! Stand-ins for what costs money or reaches people: Stripe, the mail server, the SMS provider.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use domain::payment::STRIPE_EVENTS;
use stand_ins::{mail, sms, stripe};

use crate::say;

/// The sender of the stand-in's SMS.
pub(crate) const SMS_FROM: &str = "+15005550006";

#[derive(Args)]
pub(crate) struct StandInsArgs {
    /// Where the stand-in for Stripe listens
    #[arg(long, default_value = "127.0.0.1:8090")]
    stripe: SocketAddr,
    /// Where the stand-in for Stripe sends webhooks
    #[arg(long, default_value = "http://127.0.0.1:8080/api/webhooks/stripe")]
    webhooks: String,
    /// Where the mail server listens
    #[arg(long, default_value = "127.0.0.1:8025")]
    smtp: SocketAddr,
    /// Where the page of mails listens
    #[arg(long, default_value = "127.0.0.1:8026")]
    mails: SocketAddr,
    /// Where the SMS provider listens
    #[arg(long, default_value = "127.0.0.1:8027")]
    sms: SocketAddr,
    /// The secret key the stand-in for Stripe takes
    #[arg(long, env = "STRIPE_SECRET_KEY", hide_env_values = true)]
    secret_key: Option<String>,
    /// The publishable key it takes
    #[arg(long, env = "STRIPE_PUBLISHABLE_KEY")]
    publishable_key: Option<String>,
    /// The secret it signs webhooks with
    #[arg(long, env = "STRIPE_WEBHOOK_SECRET", hide_env_values = true)]
    webhook_secret: Option<String>,
}

/// The running stand-ins; dropping them stops them.
pub(crate) struct StandIns {
    pub(crate) stripe: stripe::StandIn,
    pub(crate) mail: mail::StandIn,
    pub(crate) sms: sms::StandIn,
}

impl StandIns {
    /// Starts them on free ports; mails are also written to `mail_folder`.
    pub(crate) async fn start(mail_folder: Option<PathBuf>) -> anyhow::Result<Self> {
        let mail = mail::Config {
            folder: mail_folder,
            ..mail::Config::default()
        };
        let stripe = stripe::Config {
            webhook_events: asked_for(),
            ..stripe::Config::default()
        };
        Self::start_with(stripe, mail, sms::Config::default()).await
    }

    async fn start_with(
        stripe: stripe::Config,
        mail: mail::Config,
        sms: sms::Config,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            stripe: stripe::StandIn::start(stripe)
                .await
                .context("the stand-in for Stripe")?,
            mail: mail::StandIn::start(mail)
                .await
                .context("the mail server")?,
            sms: sms::StandIn::start(sms).await.context("the SMS provider")?,
        })
    }

    /// The settings that point services of other processes here.
    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("STRIPE_SECRET_KEY", self.stripe.secret_key().to_owned()),
            (
                "STRIPE_WEBHOOK_SECRET",
                self.stripe.webhook_secret().to_owned(),
            ),
            (
                "STRIPE_PUBLISHABLE_KEY",
                self.stripe.publishable_key().to_owned(),
            ),
            ("ONSALE_STRIPE_URL", self.stripe.url()),
            ("ONSALE_STRIPE_PUBLIC_URL", self.stripe.url()),
            ("ONSALE_SMTP_URL", self.mail.smtp_url()),
            ("ONSALE_MAILS_TO_STAND_IN", "true".to_owned()),
            ("ONSALE_SMS_URL", self.sms.url()),
            ("ONSALE_SMS_ACCOUNT", self.sms.account_sid().to_owned()),
            ("ONSALE_SMS_TOKEN", self.sms.auth_token().to_owned()),
            ("ONSALE_SMS_FROM", SMS_FROM.to_owned()),
        ]
    }
}

/// The event types that the payment worker needs.
fn asked_for() -> Vec<String> {
    STRIPE_EVENTS.map(str::to_owned).into()
}

/// Runs the stand-ins until interrupted.
pub(crate) async fn run(args: StandInsArgs) -> anyhow::Result<()> {
    let stripe = stripe::Config {
        address: args.stripe,
        secret_key: args.secret_key,
        publishable_key: args.publishable_key,
        webhook_secret: args.webhook_secret,
        webhook_urls: vec![args.webhooks],
        webhook_events: asked_for(),
        ..stripe::Config::default()
    };
    let mail = mail::Config {
        smtp_address: args.smtp,
        page_address: args.mails,
        ..mail::Config::default()
    };
    let sms = sms::Config {
        address: args.sms,
        ..sms::Config::default()
    };
    let stand_ins = StandIns::start_with(stripe, mail, sms).await?;
    for (key, value) in stand_ins.environment() {
        say(format_args!("export {key}='{value}'"));
    }
    say(format_args!(
        "# mails: {}  SMS provider: {}",
        stand_ins.mail.page_url(),
        stand_ins.sms.url()
    ));
    tokio::signal::ctrl_c().await.context("waiting for Ctrl-C")
}
