//! The waiting room: joining a sale's queue, the place in it, and the shared snapshot that
//! everyone who waits may read.
//!
//! A poll costs a signature check and a look at this node's own copy of the snapshot. Only a place
//! that has been called costs a lookup in Redis.

pub mod challenge;
mod left;
mod line;
mod queue;
mod views;

use std::sync::Arc;

use platform::limits::SharedLimits;
use platform::service::{Context, Routes};

pub use left::LeftPlaces;
pub use line::{Joined, Leaving, Line};

use challenge::Challenges;
use views::Views;

/// What the waiting room is told when it starts.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Waiting room")]
#[group(skip)]
pub struct Config {
    /// How many people may join from one address in a minute
    #[arg(long, env = "ONSALE_JOINS_PER_ADDRESS", default_value_t = 600)]
    pub joins_per_address: u32,
    /// How many people may join one sale from one network (IPv4 /24, IPv6 /48) in a minute,
    /// whichever node they reach
    #[arg(long, env = "ONSALE_JOINS_PER_NETWORK", default_value_t = 6_000)]
    pub joins_per_network: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            joins_per_address: 600,
            joins_per_network: 6_000,
        }
    }
}

/// What the handlers share.
struct Room {
    ctx: Context,
    views: Views,
    line: Line,
    limits: SharedLimits,
    joins_per_network: u32,
    challenges: Challenges,
}

/// Starts the refresh loop and returns the routes.
///
/// # Errors
/// Never; the signature is the one that every service has.
#[expect(
    clippy::unused_async,
    reason = "the signature is the one that every service has"
)]
pub async fn start(ctx: Context, config: Config) -> anyhow::Result<Routes> {
    let room = Arc::new(Room {
        views: Views::new(ctx.redis.clone(), &ctx.config.namespace),
        line: Line::new(ctx.redis.clone(), &ctx.config.namespace),
        limits: ctx.limits.shared(ctx.redis.clone()),
        joins_per_network: config.joins_per_network,
        challenges: Challenges::new(ctx.keys.derive("challenge")),
        ctx: ctx.clone(),
    });
    let refreshed = Arc::clone(&room);
    let soft = ctx.shutdown.soft().clone();
    ctx.spawn("waiting-room.refresh", async move {
        // Until soft shutdown: polls during the drain are answered from the last snapshot.
        soft.run_until_cancelled_owned(refreshed.views.refresh())
            .await;
        Ok(())
    });
    Ok(Routes {
        public: queue::routes(room, &ctx, &config),
        ..Routes::default()
    })
}
