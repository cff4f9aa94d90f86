//! Admission: the release loop, passes and the booking API.
//!
//! The release loop of each node leads the sales of the shards it owns and calls their places at
//! the operator's rate. A called place claims a pass, and the pass admits its holder to booking.
//! Booking requests go to the booking worker through RabbitMQ; the response is its outcome, or 202
//! when none arrives in time.

mod bookings;
mod help;
mod housekeeping;
pub mod lottery;
mod outcomes;
pub mod pass;
pub mod release;
mod revoked;
mod sales;
mod store;

use std::sync::Arc;
use std::time::Duration;

use platform::health::Dependency;
use platform::service::{Context, Routes};
use platform::topology;
use url::Url;

use bookings::{Ledger, Lookups};
use outcomes::Outcomes;
use pass::{ClaimBatcher, Passes};
use release::load::Answers;
use revoked::Revoked;
use sales::Sales;

/// Stripe's public API, the default address for buyers' browsers.
const STRIPE_URL: &str = "https://api.stripe.com";

/// Heartbeat limit of the polling loops: their own deadlines are shorter, so a loop that has been
/// silent for this long hangs.
const LONGEST_TURN: Duration = Duration::from_secs(30);

/// Settings of admission.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Admission")]
#[group(skip)]
pub struct Config {
    /// Stripe's publishable key, sent to buyers with a payment due
    #[arg(long, env = "STRIPE_PUBLISHABLE_KEY")]
    pub stripe_publishable_key: Option<String>,

    /// Address at which buyers' browsers reach Stripe
    #[arg(long, env = "ONSALE_STRIPE_PUBLIC_URL", default_value = STRIPE_URL)]
    pub stripe_public_url: Url,

    /// Time a booking request waits for its outcome before it is answered 202
    #[arg(long, env = "ONSALE_OUTCOME_WAIT_MS", default_value_t = 2_000)]
    pub outcome_wait_ms: u64,
}

impl Config {
    fn outcome_wait(&self) -> Duration {
        Duration::from_millis(self.outcome_wait_ms)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stripe_publishable_key: None,
            stripe_public_url: STRIPE_URL.parse().expect("the default is a URL"),
            outcome_wait_ms: 2_000,
        }
    }
}

/// State shared by handlers, loops and consumers.
struct Desk {
    ctx: Context,
    config: Config,
    sales: Sales,
    passes: Passes,
    claims: ClaimBatcher,
    revoked: Revoked,
    outcomes: Outcomes,
    ledger: Ledger,
    lookups: Lookups,
    answers: Answers,
}

/// Loads the sales and the revoked passes, starts the loops and consumers, and returns the routes.
///
/// # Errors
/// When the sales or the revoked passes can't be loaded.
pub async fn start(ctx: Context, config: Config) -> anyhow::Result<Routes> {
    help::METRICS.describe();
    // Passes and lookups work without RabbitMQ, and everything works without Redis.
    ctx.health.needs(&[Dependency::Postgres]);
    let passes = Passes::new(ctx.db.clone());
    let desk = Arc::new(Desk {
        config,
        sales: Sales::load(ctx.db.clone()).await?,
        claims: ClaimBatcher::new(passes.clone()),
        passes,
        revoked: Revoked::load(ctx.db.clone(), ctx.clock.clone()).await?,
        outcomes: Outcomes::default(),
        ledger: Ledger::new(&ctx.db, &ctx.clock),
        lookups: Lookups::new(&ctx.db),
        answers: Answers::default(),
        ctx: ctx.clone(),
    });
    ctx.spawn("admission.sales", sales::consume(Arc::clone(&desk)));
    ctx.spawn(
        "admission.revocations",
        pass::revoke::consume(Arc::clone(&desk)),
    );
    ctx.spawn(
        "admission.bookings",
        pass::shopped::consume(Arc::clone(&desk)),
    );
    ctx.spawn("admission.outcomes", outcomes::consume(Arc::clone(&desk)));
    ctx.spawn("admission.release", release::run(Arc::clone(&desk)));
    ctx.spawn(
        "admission.housekeeping",
        housekeeping::run(Arc::clone(&desk)),
    );
    let followed = Arc::clone(&desk);
    let following = ctx.health.heartbeat("admission.settings", LONGEST_TURN);
    let refusing = ctx.health.heartbeat("admission.revocations", LONGEST_TURN);
    ctx.spawn("admission.follow", async move {
        let follow = async {
            tokio::join!(
                followed.sales.follow(following),
                followed.revoked.follow(refusing),
                pass::end_due(&followed.passes),
            )
        };
        followed
            .ctx
            .shutdown
            .soft()
            .run_until_cancelled(Box::pin(follow))
            .await;
        Ok(())
    });
    let public = pass::routes(&desk)
        .merge(bookings::routes(&desk))
        .merge(lottery::routes(&desk));
    let internal = bookings::staff_routes(&desk);
    Ok(Routes {
        public: public.with_state(Arc::clone(&desk)),
        internal: internal.with_state(desk),
        consumes: vec![
            topology::admission_sales(),
            topology::admission_revocations(),
            topology::admission_bookings(),
            outcomes::queue(&ctx.node),
        ],
        ..Routes::default()
    })
}
