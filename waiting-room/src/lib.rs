//! The waiting room: joining a sale's queue, polling the place in it, and the shared snapshot.
//!
//! Numbers are rows in PostgreSQL, issued by group commit. A poll costs two signature checks and a
//! read of this node's in-memory copy of the line: no Redis and no PostgreSQL.

mod calibration;
pub mod challenge;
mod config;
mod ended;
mod help;
mod joins;
mod leavings;
mod lookups;
mod polls;
mod presence;
mod queue;
mod quotas;
mod rendered;
mod sales;
mod state;
pub mod store;
mod streams;

use std::sync::Arc;

use platform::service::{Context, Routes};

use challenge::Challenges;
use joins::JoinLimits;
use sales::Sales;
use state::AppState;
use streams::Streams;

pub use config::Config;

/// Starts the sweep of ended sales, and returns the routes.
///
/// # Errors
/// Never; the signature is the one that every service has.
#[expect(
    clippy::unused_async,
    reason = "the signature is the one that every service has"
)]
pub async fn start(ctx: Context, config: Config) -> anyhow::Result<Routes> {
    help::METRICS.describe();
    // Polls are answered from the last view of the line without any server: nothing is required.
    let limits = JoinLimits::new(&ctx, &config);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates"
    )]
    let per_address =
        (f64::from(config.streams_per_address) * ctx.config.limits_scale).max(1.0) as u32;
    let state = Arc::new(AppState {
        sales: Arc::new(Sales::new(ctx.clone(), limits)),
        challenges: Challenges::new(ctx.keys.derive("challenge")),
        streams: Streams::new(per_address, config.streams),
        begun: ctx.clock.now(),
        ctx: ctx.clone(),
    });
    ctx.spawn("waiting-room.ended", ended::run(Arc::clone(&state)));
    Ok(Routes {
        quick: queue::quick(Arc::clone(&state), &ctx, &config),
        public: queue::routes(state, &ctx, &config),
        ..Routes::default()
    })
}
