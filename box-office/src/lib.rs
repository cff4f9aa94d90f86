//! Events, search, availability, seat maps and accounts on the public listener; the staff API and
//! both sets of pages beside it.
//!
//! Box-office owns the schema `box_office`. It reads how much is left from the views of the
//! booking worker, and the figures of a queue from Redis; it changes neither.

mod accounts;
mod audit;
mod cursor;
mod events;
mod fields;
mod office;
mod openapi;
mod pages;
mod sales;
mod shared;
mod write;

use std::sync::Arc;
use std::time::Duration;

use platform::config::is_stripe;
use platform::health::Dependency;
use platform::outbox;
use platform::service::{Context, Routes};
use platform::topology;

pub use accounts::command_line::{CommandLineError, bootstrap_admin, grant_role, revoke_role};
use office::Office;

/// What this service calls itself in the outbox.
const OWNER: &str = "box-office";

/// Settings of box-office.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Config {
    /// Longest time that a sign-up or sign-in may wait for its turn at hashing the password, in
    /// milliseconds. One that would wait longer is told when to come back.
    #[arg(long, env = "ONSALE_PASSWORD_WAIT_MS", default_value_t = 7_000)]
    pub password_wait_ms: u64,
    /// Whether a new account's address is confirmed with a code before anything else is sent there,
    /// or a ticket transferred to it
    #[arg(
        long,
        env = "ONSALE_CONFIRM_ADDRESSES",
        default_value_t = false,
        action = clap::ArgAction::Set
    )]
    pub confirm_addresses: bool,
    /// Where buyers' browsers reach Stripe; the same as admission's
    #[arg(
        long = "pages-stripe-url",
        id = "pages-stripe-url",
        env = "ONSALE_STRIPE_PUBLIC_URL",
        default_value = "https://api.stripe.com"
    )]
    pub pages_stripe_url: url::Url,
    /// Whether mails reach a stand-in instead of people; set by what runs the stand-in.
    #[arg(skip)]
    pub mails_to_stand_in: bool,
}

impl Config {
    /// Whether cards are charged by a stand-in: browsers reach something else than Stripe.
    fn payments_to_stand_in(&self) -> bool {
        !is_stripe(&self.pages_stripe_url)
    }
}

/// Starts the service's loops and returns its routes.
///
/// # Errors
/// When a password can't be hashed on this machine.
pub async fn start(ctx: Context, config: Config) -> anyhow::Result<Routes> {
    let health = &ctx.health;
    health.show_stand_in("stripe", config.payments_to_stand_in());
    health.show_stand_in("mail", config.mails_to_stand_in);
    let wait = Duration::from_millis(config.password_wait_ms);
    let passwords = accounts::password::Passwords::start(wait).await?;
    let office = Arc::new(Office::new(
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
    // At once, so that a process that ends as soon as it has begun does not declare it meanwhile;
    // without RabbitMQ the consumer declares it later.
    if let Err(error) = ctx.broker.declare(&topology::box_office_audit()).await {
        tracing::warn!(%error, "the audit queue is not declared yet");
    }
    ctx.spawn("box-office audit", audit::consume(ctx.clone()));
    ctx.spawn("box-office sessions", accounts::session::sweep(ctx.clone()));
    Ok(accounts::routes(&office)
        .merge(events::routes(&office))
        .merge(sales::routes(&office))
        .merge(audit::routes(&office))
        .merge(openapi::routes())
        .merge(pages::routes(&config)))
}
