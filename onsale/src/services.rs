//! A subcommand per service, and one for all of them.

use clap::Args;
use platform::config::PlatformConfig;
use platform::service::{Context, Routes};

use crate::stand_ins::StandIns;
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
            /// Runs the service until it is told to stop.
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

impl All {
    /// Runs every service until told to stop. What is not set up is played by a stand-in.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let pays = self.services.payment_worker.stripe_secret_key.is_some();
        let mails = self.services.notifier.smtp_url.is_some();
        let stand_ins = if pays && mails {
            None
        } else {
            Some(StandIns::start(None).await?)
        };
        if let Some(stand_ins) = &stand_ins {
            if !pays {
                warn("STRIPE_SECRET_KEY is not set: payments go to a stand-in, and no money moves");
                stand_ins.lead_payments(&mut self.services);
                let public = self.platform.public_addr;
                stand_ins
                    .stripe
                    .set_webhook_url(format!("http://{public}/api/webhooks/stripe"));
            }
            if !mails {
                let page = stand_ins.mail.page_url();
                warn(format_args!(
                    "ONSALE_SMTP_URL is not set: mails reach nobody, read them at {page}"
                ));
                stand_ins.lead_notices(&mut self.services);
            }
        }
        serve("onsale", self.platform, |ctx| start_all(ctx, self.services)).await
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
