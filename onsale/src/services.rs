//! A subcommand per service, and one for all of them.

use clap::Args;
use platform::config::{InvalidConfig, PlatformConfig};
use platform::service::{Context, Routes};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::stand_ins::{SMS_FROM, StandIns};
use crate::{serve, warn};

macro_rules! service {
    ($(#[$doc:meta])* $type:ident, $name:literal, $service:ident) => {
        $(#[$doc])*
        #[derive(Args)]
        pub(crate) struct $type {
            #[command(flatten)]
            platform: PlatformConfig,
            #[command(flatten)]
            config: $service::Config,
        }

        impl $type {
            /// Runs the service until a signal.
            pub(crate) async fn run(self) -> anyhow::Result<()> {
                serve($name, self.platform, |ctx| $service::start(ctx, self.config)).await
            }
        }
    };
}

service!(
    /// The waiting room alone.
    WaitingRoom, "waiting-room", waiting_room
);
service!(
    /// Admission alone.
    Admission, "admission", admission
);
service!(
    /// Box-office alone.
    BoxOffice, "box-office", box_office
);
service!(
    /// The booking worker alone.
    BookingWorker, "booking-worker", booking_worker
);
service!(
    /// The payment worker alone.
    PaymentWorker, "payment-worker", payment_worker
);
service!(
    /// The notifier alone.
    Notifier, "notifier", notifier
);

/// Every service in one process.
#[derive(Args)]
pub(crate) struct All {
    /// Try Onsale without Stripe or a mail server: stand-ins inside this process take the place of
    /// those that are not configured. No money moves, no mail leaves, and the pages say so
    #[arg(long, env = "ONSALE_STAND_INS")]
    stand_ins: bool,
    #[command(flatten)]
    platform: PlatformConfig,
    #[command(flatten)]
    services: Services,
}

/// The configuration of every service.
#[derive(Args, Clone)]
pub(crate) struct Services {
    #[command(flatten)]
    pub(crate) waiting_room: waiting_room::Config,
    #[command(flatten)]
    pub(crate) admission: admission::Config,
    #[command(flatten)]
    pub(crate) box_office: box_office::Config,
    #[command(flatten)]
    pub(crate) booking_worker: booking_worker::Config,
    #[command(flatten)]
    pub(crate) payment_worker: payment_worker::Config,
    #[command(flatten)]
    pub(crate) notifier: notifier::Config,
}

impl Services {
    /// Points every service at the stand-ins, overriding its settings.
    pub(crate) fn point_at(&mut self, stand_ins: &StandIns) {
        self.point_payments_at(stand_ins);
        self.point_notices_at(stand_ins);
    }

    /// Points payments and the pages at the stand-in for Stripe.
    fn point_payments_at(&mut self, stand_ins: &StandIns) {
        let stripe = &stand_ins.stripe;
        let url: Url = stripe.url().parse().expect("a stand-in knows its URL");
        let payments = &mut self.payment_worker;
        payments.stripe_secret_key = Some(stripe.secret_key().into());
        payments.stripe_webhook_secrets = vec![stripe.webhook_secret().into()];
        payments.stripe_url = url.clone();
        self.admission.stripe_publishable_key = Some(stripe.publishable_key().to_owned());
        self.admission.stripe_public_url = url.clone();
        self.box_office.pages_stripe_url = url;
    }

    /// Points the notifier at the stand-ins for mail and SMS.
    fn point_notices_at(&mut self, stand_ins: &StandIns) {
        let (mail, sms) = (&stand_ins.mail, &stand_ins.sms);
        let notices = &mut self.notifier;
        notices.smtp_url = Some(mail.smtp_url().into());
        notices.sms_url = Some(sms.url().parse().expect("a stand-in knows its URL"));
        notices.sms_account = Some(sms.account_sid().to_owned());
        notices.sms_token = Some(sms.auth_token().into());
        notices.sms_from = Some(SMS_FROM.to_owned());
        self.box_office.mails_to_stand_in = true;
    }
}

impl All {
    /// Runs every service until a signal. A missing server is an error, unless stand-ins were asked
    /// for by name.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let missing = Missing::of(&self.services);
        if !self.stand_ins {
            missing.refuse()?;
        }
        // Keeps the stand-ins listening until the services have ended.
        let _stand_ins = self.start_stand_ins(missing).await?;
        serve("onsale", self.platform, |ctx| start_all(ctx, self.services)).await
    }

    async fn start_stand_ins(&mut self, missing: Missing) -> anyhow::Result<Option<StandIns>> {
        if !missing.payments && !missing.mails {
            return Ok(None);
        }
        let stand_ins = StandIns::start(None).await?;
        if missing.payments {
            warn("payments go to a stand-in: no money moves");
            self.services.point_payments_at(&stand_ins);
            let public = self.platform.public_addr;
            stand_ins
                .stripe
                .set_webhook_url(format!("http://{public}/api/webhooks/stripe"));
        }
        if missing.mails {
            let page = stand_ins.mail.page_url();
            warn(format_args!(
                "mails go to a stand-in and reach nobody; read them at {page}"
            ));
            self.services.point_notices_at(&stand_ins);
        }
        Ok(Some(stand_ins))
    }
}

/// Servers that an installation needs and that are not configured.
#[derive(Clone, Copy)]
struct Missing {
    payments: bool,
    mails: bool,
}

impl Missing {
    fn of(services: &Services) -> Self {
        let is_unset = |secret: &Option<SecretString>| {
            secret
                .as_ref()
                .is_none_or(|secret| secret.expose_secret().is_empty())
        };
        Self {
            payments: is_unset(&services.payment_worker.stripe_secret_key),
            mails: is_unset(&services.notifier.smtp_url),
        }
    }

    /// Returns an error that names every missing setting: a misspelt one must not silently turn a
    /// shop into one that charges nothing.
    fn refuse(self) -> Result<(), InvalidConfig> {
        let names = [
            (self.payments, "STRIPE_SECRET_KEY"),
            (self.mails, "ONSALE_SMTP_URL"),
        ];
        let names: Vec<_> = names
            .into_iter()
            .filter_map(|(is_missing, name)| is_missing.then_some(name))
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        Err(InvalidConfig::new(format!(
            "{} must be set. To try Onsale without them, add --stand-ins: no money moves then, and no mail leaves",
            names.join(" and ")
        )))
    }
}

/// Starts every service on one context.
pub(crate) async fn start_all(ctx: Context, services: Services) -> anyhow::Result<Routes> {
    let Services {
        waiting_room,
        admission,
        box_office,
        booking_worker,
        payment_worker,
        notifier,
    } = services;
    let mut routes = waiting_room::start(ctx.clone(), waiting_room).await?;
    routes = routes.merge(admission::start(ctx.clone(), admission).await?);
    routes = routes.merge(box_office::start(ctx.clone(), box_office).await?);
    routes = routes.merge(booking_worker::start(ctx.clone(), booking_worker).await?);
    routes = routes.merge(payment_worker::start(ctx.clone(), payment_worker).await?);
    Ok(routes.merge(notifier::start(ctx, notifier).await?))
}

#[cfg(test)]
mod tests;
