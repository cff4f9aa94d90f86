//! Admission: the release loop, passes and the booking API.
//!
//! The release loop of each node leads the sales of the shards it owns and calls their places at
//! the operator's rate. A called place claims a pass, and the pass admits its holder to booking.
//! Booking requests go to the booking worker through RabbitMQ; the response is its outcome, or 202
//! when none arrives in time.

mod bookings;
mod config;
mod consumers;
mod help;
mod housekeeping;
pub mod lottery;
mod outcomes;
pub mod pass;
pub mod release;
mod revocations;
mod sales;
mod state;
mod store;

use std::sync::Arc;
use std::time::Duration;

use platform::health::Dependency;
use platform::service::{Context, Routes};
use platform::topology;

use bookings::{Lookups, RequestWriter};
use outcomes::Outcomes;
use pass::{ClaimBatcher, Passes};
use release::load::ResponseStats;
use revocations::Revocations;
use sales::Sales;
use state::AppState;

pub use config::Config;

/// Heartbeat limit of the polling loops: their own deadlines are shorter, so a loop that has been
/// silent for this long hangs.
const MAX_SILENCE: Duration = Duration::from_secs(30);

/// Loads the sales and the revoked passes, starts the loops and consumers, and returns the routes.
///
/// # Errors
/// When the sales or the revoked passes can't be loaded.
pub async fn start(ctx: Context, config: Config) -> anyhow::Result<Routes> {
    help::METRICS.describe();
    // Passes and lookups work without RabbitMQ, and everything works without Redis.
    ctx.health.needs(&[Dependency::Postgres]);
    let passes = Passes::new(ctx.db.clone());
    let state = Arc::new(AppState {
        config,
        sales: Sales::load(ctx.db.clone()).await?,
        claims: ClaimBatcher::new(passes.clone()),
        passes,
        revoked: Revocations::load(ctx.db.clone(), ctx.clock.clone()).await?,
        outcomes: Outcomes::default(),
        writer: RequestWriter::new(&ctx.db, &ctx.clock),
        lookups: Lookups::new(&ctx.db),
        responses: ResponseStats::default(),
        ctx: ctx.clone(),
    });
    ctx.spawn("admission.sales", consumers::sales(Arc::clone(&state)));
    ctx.spawn(
        "admission.revocations",
        pass::revoke::consume(Arc::clone(&state)),
    );
    ctx.spawn(
        "admission.bookings",
        pass::shopped::consume(Arc::clone(&state)),
    );
    ctx.spawn(
        "admission.outcomes",
        consumers::outcomes(Arc::clone(&state)),
    );
    ctx.spawn("admission.release", release::run(Arc::clone(&state)));
    ctx.spawn(
        "admission.housekeeping",
        housekeeping::run(Arc::clone(&state)),
    );
    let followed = Arc::clone(&state);
    let following = ctx.health.heartbeat("admission.settings", MAX_SILENCE);
    let refusing = ctx.health.heartbeat("admission.revocations", MAX_SILENCE);
    ctx.spawn("admission.follow", async move {
        let follow = async {
            tokio::join!(
                followed.sales.follow(following),
                followed.revoked.follow(refusing),
                pass::expire_due(&followed.passes),
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
    let public = pass::routes(&state)
        .merge(bookings::routes(&state))
        .merge(lottery::routes(&state));
    let internal = bookings::staff_routes(&state);
    Ok(Routes {
        public: public.with_state(Arc::clone(&state)),
        internal: internal.with_state(state),
        consumes: vec![
            topology::admission_sales(),
            topology::admission_revocations(),
            topology::admission_bookings(),
            outcomes::queue(&ctx.node),
        ],
        ..Routes::default()
    })
}
