//! Events, search, availability, seat maps and accounts on the public listener; the staff API and
//! both sets of pages beside it.
//!
//! Box-office owns the schema `box_office`. It reads stock from the views of the booking worker and
//! queue snapshots from those of admission, and writes to neither.

mod accounts;
mod audit;
mod cached_response;
mod cursor;
mod events;
mod fields;
mod openapi;
mod pages;
mod sales;
mod state;
mod write;

use std::sync::Arc;
use std::time::Duration;

use platform::config::{is_stripe, milliseconds};
use platform::health::Dependency;
use platform::outbox;
use platform::service::{Context, Routes};
use platform::topology;

pub use accounts::command_line::{CommandLineError, bootstrap_admin, grant_role, revoke_role};
pub use accounts::enrol::enrol;
use state::AppState;

/// This service's owner name in the outbox.
const OWNER: &str = "box-office";

/// Settings of box-office.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Box office")]
#[group(skip)]
pub struct Config {
    /// Longest queueing time for password hashing at sign-up and sign-in. Requests that would wait
    /// longer get 503 with Retry-After.
    #[arg(
        long = "password-wait-ms",
        env = "ONSALE_PASSWORD_WAIT_MS",
        value_name = "MILLISECONDS",
        default_value = "7000",
        value_parser = milliseconds
    )]
    pub password_wait: Duration,
    /// Require a new account's address to be confirmed by a code before other mail is sent to it or
    /// a ticket is transferred to it
    #[arg(
        long,
        env = "ONSALE_CONFIRM_ADDRESSES",
        default_value_t = false,
        action = clap::ArgAction::Set
    )]
    pub confirm_addresses: bool,
    /// Stripe API URL used by buyers' browsers; must match admission's
    #[arg(
        long = "pages-stripe-url",
        id = "pages-stripe-url",
        env = "ONSALE_STRIPE_PUBLIC_URL",
        default_value = "https://api.stripe.com"
    )]
    pub pages_stripe_url: url::Url,
    /// Set if the notifier's mail server is a stand-in, so that no mail leaves: every page and
    /// /readyz then say so. `onsale stand-ins` prints it
    #[arg(
        long,
        env = "ONSALE_MAILS_TO_STAND_IN",
        default_value_t = false,
        action = clap::ArgAction::Set
    )]
    pub mails_to_stand_in: bool,
}

impl Config {
    /// Returns true if browsers are sent to a host other than Stripe's.
    fn payments_to_stand_in(&self) -> bool {
        !is_stripe(&self.pages_stripe_url)
    }
}

/// Spawns the service's background tasks and returns its routes.
///
/// # Errors
/// When the hashing threads can't be started.
pub async fn start(ctx: Context, config: Config) -> anyhow::Result<Routes> {
    let health = &ctx.health;
    health.show_stand_in("stripe", config.payments_to_stand_in());
    health.show_stand_in("mail", config.mails_to_stand_in);
    let passwords = accounts::password::Passwords::start(config.password_wait).await?;
    let state = Arc::new(AppState::new(
        ctx.clone(),
        passwords,
        config.confirm_addresses,
    ));
    let stop = ctx.shutdown.soft().clone();
    ctx.spawn(
        "box-office outbox",
        outbox::relay(ctx.db.clone(), ctx.broker.clone(), stop, OWNER),
    );
    ctx.health.needs(&[Dependency::Postgres]);
    // Declared before the routes are served, so that a process that shuts down right after start-up
    // isn't still declaring it. If RabbitMQ is down, the consumer declares it later.
    if let Err(error) = ctx.broker.declare(&topology::box_office_audit()).await {
        tracing::warn!(%error, "failed to declare audit queue");
    }
    ctx.spawn("box-office audit", audit::consume(ctx.clone()));
    ctx.spawn("box-office sweep", accounts::sweep::run(ctx.clone()));
    Ok(accounts::routes(&state)
        .merge(events::routes(&state))
        .merge(sales::routes(&state))
        .merge(audit::routes(&state))
        .merge(openapi::routes())
        .merge(pages::routes(&config)))
}
